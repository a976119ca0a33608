"""nequip, a model that nequip-compile has compiled with AOTInductor.

    python peer_nequip.py MODEL.nequip.pt2 STRUCTURE_FILE [DEVICE]

A model is made by ``nequip_model.sh``.
"""

import sys

import torch
from nequip.integrations.ase import NequIPCalculator
from step_time import report

model, structure, *device = sys.argv[1:]
torch.set_num_threads(1)
report(NequIPCalculator.from_compiled_model(model, device=(device or ["cpu"])[0]), structure)
