"""Try files without TorchScript, which torch deprecates: programs of torch.export.

    python examples/results/without_torchscript.py

Energy and gradient of each model are traced into one graph of tensor operations, exported with free
numbers of atoms and edges, and saved. A process that imports torch alone loads the file and
evaluates structures of other sizes; numbers, sizes and times are set beside the model file's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.fx.experimental.proxy_tensor import make_fx

from eqcalc import EqCalculator
from eqcalc.elements import atomic_number
from eqcalc.export.exchange import differentiate
from eqcalc.export.frames import element_clusters
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.files import write_whole
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.tabulated import exact_form

HERE = Path(__file__).parent
TABLE = HERE / "without_torchscript.md"
KEPT = HERE.parents[1] / "tests" / "data" / "kept" / "0.1.0" / "models"
ARCHITECTURES = ("schnet", "dimenet", "dimenetpp", "egnn", "painn", "gvp", "nequip")
MODELS = [*(str(KEPT / f"{name}.pt") for name in ARCHITECTURES), "painn-ethanol", "sevennet-0"]
N_CALLS = 20

ALONE = """
import json, sys, time
import torch
torch.set_num_threads(1)
begin = time.perf_counter()
program = torch.export.load(sys.argv[1]).module()
seconds = time.perf_counter() - begin
found = []
for arguments in torch.load(sys.argv[2]):
    energies, gradient = program(*arguments)
    times = []
    for _ in range(int(sys.argv[3])):
        begin = time.perf_counter()
        program(*arguments)
        times.append(time.perf_counter() - begin)
    median = sorted(times)[len(times) // 2]
    found.append([energies.sum().item(), gradient.flatten().tolist(), median])
assert "eqcalc" not in sys.modules
print(json.dumps([seconds, found]))
"""


def main() -> None:
    """Try all models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    torch.set_num_threads(1)
    rows = [row_of(model) for model in parser.parse_args().models]
    lines = [PAGE.format(torch=torch.__version__), *rows]
    write_whole(TABLE, ("\n".join(lines) + "\n" + LIMITS).encode())
    print(TABLE.read_text())


def row_of(model: str) -> str:
    """Return a row of the table."""
    file = open_model_file(model)
    name = f"{file.card.architecture}, small" if file.path.parent == KEPT else file.card.name
    dtype = getattr(torch, file.card.dtype)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return f"| {name} | {compared(model, dtype, Path(folder))} |"
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:80]
        return f"| {name} | {type(error).__name__}: {reason} | | | | | |"


def compared(model: str, dtype: torch.dtype, folder: Path) -> str:
    """Return what a row says of a model, after its name."""
    file = open_model_file(model)
    potential = rebuild_potential(file)
    potential.architecture = exact_form(potential.architecture)
    potential = potential.requires_grad_(False).to(dtype)

    def evaluate(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return differentiate(potential, *tensors)

    begin = time.perf_counter()
    program = export(evaluate, file.card.elements, file.card.cutoff, dtype)
    torch.export.save(program, folder / "program.pt2")
    exported_s = time.perf_counter() - begin
    structures = structures_of(file.card.elements)
    arguments = [arguments_of(atoms, file.card.cutoff, dtype) for atoms in structures]
    torch.save(arguments, folder / "arguments.pt")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ALONE,
            folder / "program.pt2",
            folder / "arguments.pt",
            str(N_CALLS),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    loaded_s, found = json.loads(done.stdout)
    off_energy = off_gradient = 0.0
    ratios = []
    for atoms, tensors, (energy, gradient, seconds) in zip(
        structures, arguments, found, strict=True
    ):
        energies, expected = evaluate(*tensors)
        off_energy = max(off_energy, abs(energy - float(energies.sum())) / len(atoms))
        difference = np.array(gradient) - expected.flatten().numpy()
        off_gradient = max(off_gradient, float(np.abs(difference).max()))
        ratios.append(seconds / torchscript_seconds(model, atoms))
    size = (folder / "program.pt2").stat().st_size / 1e6
    own = file.path.stat().st_size / 1e6
    return (
        f"{off_energy:.0e} | {off_gradient:.0e} | {size:.1f} ({own:.1f}) | {exported_s:.0f} | "
        f"{loaded_s:.1f} | {min(ratios):.2f} to {max(ratios):.2f}"
    )


def export(
    evaluate: Callable[..., tuple[Tensor, Tensor]],
    elements: Any,
    cutoff: float,
    dtype: torch.dtype,
) -> torch.export.ExportedProgram:
    """Return the program of energies and gradient, for any numbers of atoms and edges."""
    frame = element_clusters(sorted(atomic_number(symbol) for symbol in elements))[1]
    example = arguments_of(frame, cutoff, dtype)
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        traced = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    atoms, edges = torch.export.Dim("n_atoms", min=2), torch.export.Dim("n_edges", min=2)
    shapes: tuple[dict[int, Any], ...] = ({0: atoms}, {0: edges}, {1: edges}, {0: atoms})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(traced, example, dynamic_shapes=shapes)


def structures_of(elements: Any) -> list[Atoms]:
    """Return two structures of different sizes."""
    if "Si" in elements:
        return [bulk("Si", cubic=True), bulk("Si", cubic=True) * (2, 1, 1)]
    pair = molecule("CH3CH2OH")
    other = molecule("CH3CH2OH")
    other.translate([4.0, 0.5, 0.2])
    return [molecule("CH3CH2OH"), pair + other]


def arguments_of(atoms: Atoms, cutoff: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the tensors that a program takes."""
    graph = build_graph(atoms, cutoff, dtype=dtype)
    weights = torch.ones(len(atoms), dtype=torch.float64)
    return graph.atomic_numbers, graph.edge_vectors, graph.edge_index, weights


def torchscript_seconds(model: str, atoms: Atoms) -> float:
    """Return the time of a call of the model file's program."""
    calculator = EqCalculator(model, device="cpu", engine="torchscript")
    graph = build_graph(atoms, calculator.card.cutoff, dtype=calculator.models[0].dtype)
    times = []
    for _ in range(N_CALLS):
        begin = time.perf_counter()
        calculator.models[0](graph)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


PAGE = """\
# Files without TorchScript

    python examples/results/without_torchscript.py

TorchScript, in which model files are written, is deprecated by torch, which still reads it (torch
{torch} here). Two ways stand ready. Every file holds its card and its weights as safetensors, from
which the network is rebuilt: that is how packages are compiled and checkpoints fine-tuned, and it
needs no TorchScript. And programs of torch.export are tried here: numbers are those of a process
that imports nothing but torch, for sizes the exporter has not seen, beside the eager network's.
Differences are the largest, of energies (eV/atom) and of gradients by edge vectors (eV/Å); sizes
beside that of the model file; the time of a call beside that of the file's TorchScript.

| model | energy | gradient | MB (model file) | to export (s) | to load (s) | call |
|---|---|---|---|---|---|---|"""
LIMITS = """
Limits found: the program holds one precision and one device; it needs two atoms and two edges
(pads, as the compiled engine makes them); the exporter cannot follow autograd, so that energy and
gradient are traced into one graph first and the program has no second derivative; it calls no C++
kernels. torch says of these files that a later version may not read them: the safetensors beside
the card are what lasts, and model files stay TorchScript until torch no longer reads it.
"""


if __name__ == "__main__":
    main()
