#!/usr/bin/env bash
# Make the model of peer_nequip.py: NequIP, 32 features, l = 2, 4 layers, parity, 5 Å, float32.
#
#     bash nequip_model.sh ENVIRONMENT/bin OUTPUT_FOLDER [DEVICE [OPTION_OF_NEQUIP_COMPILE...]]
#
# One epoch of training, because nequip compiles checkpoints only; some minutes on one thread.
set -euo pipefail
bin=$(realpath "$1")
mkdir -p "$2"
cp "$(dirname "$0")/nequip.yaml" "$2"
cd "$2"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Periodic frames: nequip checks the compiled stress, which a molecule without a cell has not.
"$bin/python" - <<'PYTHON'
import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write
generator = np.random.default_rng(0)
frames = []
for _ in range(6):
    atoms = molecule("CH3CH2OH", cell=[9.0] * 3, pbc=True)
    atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
    atoms.calc = EMT()
    atoms.get_forces()
    frames.append(atoms)
write("frames.xyz", frames)
PYTHON
"$bin/nequip-train" -cp "$PWD" -cn nequip hydra.run.dir="$PWD/training"
"$bin/nequip-compile" training/last.ckpt model.nequip.pt2 \
    --device "${3:-cpu}" --mode aotinductor --target ase "${@:4}"
