"""Model files run where nothing but torch is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.errors import ContractError
from eqcalc.graph import AtomicGraph
from eqcalc.testing import geometries
from eqcalc.testing.subjects import Subject, assert_close, evaluate

__all__ = ["assert_needs_torch_alone"]

_BLOCKED = ("ase", "e3nn", "eqcalc", "safetensors", "scipy", "torch_scatter", "vesin")

_FRESH_PROCESS = f"""
import json, sys

class OnlyTorch:
    blocked = {set(_BLOCKED)!r}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"{{name}} is blocked")
        return None

sys.meta_path.insert(0, OnlyTorch())
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
found = {{}}
for path, inputs in torch.load(sys.argv[1], weights_only=True).items():
    model = torch.jit.load(path)
    found[path] = {{}}
    for case, (numbers, vectors, index, n_owned) in inputs.items():
        for _ in range(3):  # the optimised form as well
            energies, gradients = model(numbers, vectors, index, n_owned)
        found[path][case] = [energies.tolist(), gradients.tolist()]
print(json.dumps(found))
"""


def assert_needs_torch_alone(models: Mapping[Path, Subject]) -> None:
    """A process that has torch and no other package gets the same numbers from the model file.

    Parameters
    ----------
    models : potentials by the path of their model files, in the dtype of the file

    Raises
    ------
    ContractError : a file does not load there, or its numbers differ.
    """
    structures = geometries.generic() | {"isolated C": geometries.isolated("C")}
    graphs = {
        str(path): {case: reference.graph(atoms) for case, atoms in structures.items()}
        for path, reference in models.items()
    }
    answers = _run_alone(graphs)
    for path, reference in models.items():
        for case, graph in graphs[str(path)].items():
            expected = evaluate(reference, graph, case)
            energies, gradients = (
                torch.tensor(x, dtype=torch.float64) for x in answers[str(path)][case]
            )
            forces = forces_from_edge_gradients(
                gradients.reshape(-1, 3), graph.edge_index, len(energies)
            )
            what = f"{reference.label}: {case}, in a process that has only torch"
            assert_close(energies, expected.energies, reference.tolerance, what, "energies")
            assert_close(forces, expected.forces, reference.tolerance, what, "forces")


def _run_alone(graphs: Mapping[str, Mapping[str, AtomicGraph]]) -> dict[str, dict[str, list]]:
    """Return energies and edge gradients by path and case, as nested lists."""
    inputs = {
        path: {
            case: (graph.atomic_numbers, graph.edge_vectors, graph.edge_index, graph.n_owned)
            for case, graph in cases.items()
        }
        for path, cases in graphs.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.pt"
        torch.save(inputs, file)
        done = subprocess.run(
            [sys.executable, "-I", "-c", _FRESH_PROCESS, str(file)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode != 0:
        raise ContractError(f"a model file fails where only torch is installed: {done.stderr}")
    return json.loads(done.stdout)
