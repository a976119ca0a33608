"""eqcalc, an untrained model file.

python ours.py MODEL.pt ENGINE STRUCTURE_FILE
"""

import sys

import torch
from step_time import report

from eqcalc import EqCalculator

model, engine, structure = sys.argv[1:]
torch.set_num_threads(1)
report(EqCalculator(model, device="cpu", engine=engine), structure)
