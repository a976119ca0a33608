"""Make the shipped universal potentials from the checkpoints in the wheel of sevenn.

    python models/make_sevennet.py [WHEEL]

Without a wheel, pip downloads that of sevenn 0.13.0; nothing of the package is installed or run.
Writes models/sevennet-0 and models/sevennet-l3i5: model.pt, card.md, and the weights' licence.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule

from eqcalc.files import write_whole
from eqcalc.importers import import_model

HERE = Path(__file__).parent
VERSION = "0.13.0"
CHECKPOINTS = {
    "sevennet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "sevennet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}
SCOPE = {
    "universal": True,
    "level of theory": "PBE (+U)",
    "data": "MPtrj",
    "not good for": "molecules alone, reactions, dispersion, charged or magnetic states, "
    "collisions",
    "source": "Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3",
    "network": "Park et al., J. Chem. Theory Comput. 20, 4857 (2024), doi:10.1021/acs.jctc.4c00190",
}


def frames() -> list[Atoms]:
    """Return structures for the passport: what the potentials are for."""
    silicon = bulk("Si", cubic=True)
    silicon.rattle(0.05, seed=1)
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.positions[0] += (0.1, 0.2, -0.1)
    return [silicon, salt, molecule("H2O")]


def main() -> None:
    """Write both models."""
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            wheel = Path(sys.argv[1])
        else:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder]
            subprocess.run([*pip, f"sevenn=={VERSION}"], check=True)
            (wheel,) = Path(folder).glob("sevenn-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name, path in CHECKPOINTS.items():
                checkpoint = Path(archive.extract(f"sevenn/pretrained_potentials/{path}", folder))
                made = import_model(
                    checkpoint,
                    HERE / name,
                    training_data=SCOPE,
                    frames=frames(),
                    overwrite=True,
                )
                (notice,) = (n for n in archive.namelist() if n.endswith("LICENSE"))
                write_whole(HERE / name / "LICENSE", archive.read(notice))
                size = made.path.stat().st_size / 1e6
                print(f"{made.path}: {size:.1f} MB, {len(made.card.elements)} elements")


if __name__ == "__main__":
    main()
