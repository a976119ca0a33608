"""SevenNet's own calculator with one of its published models, float32, 5 Å.

python peer_sevennet.py {7net-0,7net-l3i5} STRUCTURE_FILE [DEVICE]
"""

import sys

import torch
from sevenn.calculator import SevenNetCalculator
from step_time import report

name, structure, *device = sys.argv[1:]
torch.set_num_threads(1)
report(SevenNetCalculator(name, device=(device or ["cpu"])[0]), structure)
