"""Record in float64 what SevenNet computes with its own checkpoints.

    python tests/imports/record_sevennet.py

in an environment of its own with sevenn (recorded: 0.13.0) and torch. It writes
``sevennet.npz`` and ``sevennet_small.npz`` (for the small checkpoints of ``sevennet/``) beside
itself: the structures, and for every model energies, forces and stress.

sevenn works in float32. Here its module is cast to float64, and so is its input: positions are
kept from ASE to the edge vectors. Weights stay those of the file, which are float32 numbers.
Buffers that are constants of mathematics (Wigner's 3j symbols) were rounded to float32 when the
module was built; they are computed again in float64, with the signs that they had.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from recording import Recording
from structures import structures

warnings.filterwarnings("ignore")

import sevenn  # noqa: E402
import sevenn._keys as KEY  # noqa: E402
from sevenn.atom_graph_data import AtomGraphData  # noqa: E402
from sevenn.checkpoint import SevenNetCheckpoint  # noqa: E402
from sevenn.nn.node_embedding import OnehotEmbedding  # noqa: E402
from sevenn.train.dataload import unlabeled_atoms_to_graph  # noqa: E402

HERE = Path(__file__).parent
SHIPPED = Path(sevenn.__file__).parent / "pretrained_potentials"
MODELS = {
    "0_11Jul2024": (SHIPPED / "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", None),
    "0_22May2024": (SHIPPED / "SevenNet_0__22May2024/checkpoint_sevennet_0.pth", None),
    "l3i5": (SHIPPED / "SevenNet_l3i5/checkpoint_l3i5.pth", None),
    "MF_0:PBE": (SHIPPED / "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "PBE"),
    "MF_0:R2SCAN": (SHIPPED / "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "R2SCAN"),
}


def main() -> None:
    torch.set_num_threads(1)
    everything = structures()
    record(MODELS, everything, HERE / "sevennet.npz")
    small = sorted((HERE / "sevennet").glob("*.pth"))
    if not small:
        raise SystemExit("the small checkpoints are missing: run make_sevennet.py first")
    models: dict[str, tuple[Path, str | None]] = {}
    for path in small:
        modals = SevenNetCheckpoint(path).config.get("_modal_map")
        for modal in modals or [None]:
            models[path.stem + (f":{modal}" if modal else "")] = (path, modal)
    known = {name: everything[name] for name in ("mgo-slab", "h2o", "hydrogen-atom")}
    record(models, known, HERE / "sevennet_small.npz")


def record(
    models: dict[str, tuple[Path, str | None]], everything: dict[str, Atoms], path: Path
) -> None:
    """Write structures and results to ``path``."""
    recording = Recording(everything, "sevenn", "e3nn", "torch", "ase")
    for label, (file, modal) in models.items():
        checkpoint = SevenNetCheckpoint(file)
        model = in_float64(checkpoint.build_model())
        cutoff = checkpoint.config[KEY.CUTOFF]
        for name, atoms in everything.items():
            recording.add(label, name, evaluate(model, atoms, cutoff, modal))
    recording.write(path)


def in_float64(model: torch.nn.Module) -> torch.nn.Module:
    """Cast a module, with its constants as exact as float64 has them."""
    model.set_is_batch_data(False)
    model.eval().double()
    for module in model.children():
        if isinstance(module, OnehotEmbedding):
            module.register_forward_hook(exact_onehots)
    for name, buffer in model.named_buffers():
        match = re.search(r"_w3j_(\d+)_(\d+)_(\d+)$", name)
        if match is None:
            continue
        exact = o3.wigner_3j(*map(int, match.groups()), dtype=torch.float64)
        sign = torch.sign((exact * buffer).sum())
        if not torch.allclose(sign * exact, buffer, atol=1e-6):
            raise SystemExit(f"{name} is no multiple ±1 of Wigner's symbols")
        buffer.copy_(sign * exact)
    return model


def exact_onehots(module: torch.nn.Module, inputs: tuple, data: dict) -> dict:
    """Cast what the module made of species: it makes float32, whatever the model's dtype."""
    for key in (module.key_output, module.key_additional_output):
        if key is not None:
            data[key] = data[key].double()
    return data


def evaluate(
    model: torch.nn.Module, atoms: Atoms, cutoff: float, modal: str | None
) -> dict[str, np.ndarray]:
    """Return energies (n_atoms,), forces (n_atoms, 3) and, of a crystal, stress (6,)."""
    content = unlabeled_atoms_to_graph(atoms, cutoff)
    vectors = content[KEY.EDGE_VEC]
    data = AtomGraphData.from_numpy_dict(dict(content))
    # from_numpy_dict rounds to float32.
    data[KEY.EDGE_VEC] = torch.from_numpy(np.asarray(vectors, dtype=np.float64))
    data[KEY.CELL_VOLUME] = torch.tensor(float(atoms.cell.volume), dtype=torch.float64)
    data[KEY.POS] = torch.from_numpy(atoms.positions.copy())
    if modal is not None:
        data[KEY.DATA_MODALITY] = modal
    output = model(data)
    energies = output[KEY.ATOMIC_ENERGY].detach().numpy().flatten()
    forces = output[KEY.PRED_FORCE].detach().numpy()
    result = {"energies": energies, "forces": forces}
    if atoms.pbc.all():
        # The order and sign of SevenNetCalculator.
        result["stress"] = -output[KEY.PRED_STRESS].detach().numpy()[[0, 1, 2, 4, 5, 3]]
    return result


if __name__ == "__main__":
    main()
