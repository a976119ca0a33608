"""mace-torch, a ScaleShiftMACE with random weights in float32.

python peer_mace.py IRREPS STRUCTURE_FILE [DEVICE]        (IRREPS such as 64x0e+64x1o)
"""

import logging
import os
import sys
import warnings

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # its e3nn loads constants as objects
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from e3nn import o3  # noqa: E402
from mace import modules  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402
from step_time import report  # noqa: E402

irreps, structure, *device = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
torch.set_default_dtype(torch.float32)
interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
model = modules.ScaleShiftMACE(
    r_max=5.0,
    num_bessel=8,
    num_polynomial_cutoff=5,
    max_ell=3,
    interaction_cls_first=interaction,
    interaction_cls=interaction,
    num_interactions=2,
    num_elements=4,
    atomic_numbers=[1, 6, 8, 29],
    hidden_irreps=o3.Irreps(irreps),
    MLP_irreps=o3.Irreps("16x0e"),
    gate=torch.nn.functional.silu,
    correlation=3,
    atomic_energies=np.zeros(4),
    avg_num_neighbors=20.0,
    atomic_inter_scale=1.0,
    atomic_inter_shift=0.0,
).eval()
device = (device or ["cpu"])[0]
report(MACECalculator(models=model, device=device, default_dtype="float32"), structure)
