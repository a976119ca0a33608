"""A layer imports only what stands to its left, and importing eqcalc is cheap."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import eqcalc

PACKAGE = Path(eqcalc.__file__).parent

CHAINS = """
errors -> units, files, extxyz, devices, electrons, elements -> graph, native
errors -> host_memory, threads, device_use, concessions -> graph, native
errors -> arguments, cores, late_names -> graph, native
errors -> figures, versions -> data, simulate, training
graph -> nn -> architectures
graph, native -> derivatives, neighbours -> model_file -> engines -> blockwise -> calculator
architectures, derivatives -> potential
nn -> triton_kernels -> tabulated
architectures, native -> tabulated
tabulated, potential, model_file -> export
export, engines -> compiling
export, blockwise -> testing
testing, calculator -> verification
architectures, export -> importers
derivatives, neighbours -> data
data, blockwise -> evaluation
calculator -> simulate -> bench, hosts
hosts -> doctor
simulate -> analysis -> report, selection
export, evaluation -> training -> dynamics
"""
"""The layers: what stands right of an arrow may import what stands left of it, and so on.

``cli`` may import everything, and ``__main__`` is its door. Engines call what compiles by its
entry point, not by an import.
"""


def _layers() -> dict[str, set[str]]:
    """Return layer -> every layer to its left."""
    left: dict[str, set[str]] = {}
    for line in CHAINS.strip().splitlines():
        groups = [[name.strip() for name in part.split(",")] for part in line.split("->")]
        for before, after in pairwise(groups):
            for name in after:
                left.setdefault(name, set()).update(before)
    for name in list(left):
        reached: set[str] = set()
        pending = list(left[name])
        while pending:
            layer = pending.pop()
            if layer not in reached:
                reached.add(layer)
                pending += left.get(layer, ())
        left[name] = reached
    return left | {"errors": set()}


ALLOWED = _layers()

LAZY: dict[str, set[str]] = {
    # ``from eqcalc import EqCalculator`` without the cost in ``import eqcalc``.
    "": {"calculator", "engines", "model_file"},
    # Descriptors are inside the network, which is rebuilt when they are asked for.
    "calculator": {"export"},
}
"""Further imports, allowed inside functions or under TYPE_CHECKING only."""

HEAVY = {
    "MDAnalysis",
    "e3nn",
    "h5py",
    "ipi",
    "lightning",
    "matplotlib",
    "openmm",
    "pytorch_lightning",
    "tensorboard",
    "torch_scatter",
    "torch_sim",
}


class Import(NamedTuple):
    """One import of one eqcalc module by another.

    importer, imported : dotted names without the leading "eqcalc."
    is_lazy : inside a function or under TYPE_CHECKING
    """

    importer: str
    imported: str
    is_lazy: bool
    line: int


def _modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name without "eqcalc"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(importer: str, path: Path) -> Iterator[Import]:
    """Yield every import of eqcalc in a file, those inside functions as well."""
    package = importer if path.stem == "__init__" else importer.rpartition(".")[0]
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), False)]
    while pending:
        node, is_lazy = pending.pop()
        for name in _named_modules(node, package):
            yield Import(importer, name, is_lazy, getattr(node, "lineno", 0))
        lazy = is_lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        lazy = lazy or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        pending.extend((child, lazy) for child in ast.iter_child_nodes(node))


def _named_modules(node: ast.AST, package: str) -> list[str]:
    """Return the eqcalc modules that one statement or call imports."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            base = importlib.util.resolve_name(
                "." * node.level + base, f"eqcalc.{package}".rstrip(".")
            )
        # ``from eqcalc import x`` names a module or one of the package's own attributes.
        names = [
            f"{base}.{alias.name}" if f"{base}.{alias.name}"[7:] in MODULES else base
            for alias in node.names
        ]
    elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
        names = [a.value for a in node.args if isinstance(a, ast.Constant)]
    return [
        name.removeprefix("eqcalc").removeprefix(".")
        for name in names
        if isinstance(name, str) and (name == "eqcalc" or name.startswith("eqcalc."))
    ]


def _is_allowed(found: Import) -> bool:
    importer, imported = found.importer.split(".")[0], found.imported.split(".")[0]
    if importer in ("cli", "__main__", imported):
        return True
    if imported == "":
        return True  # the package itself: __version__, and what it imports lazily
    permitted = ALLOWED.get(importer, set())
    if found.is_lazy:
        permitted = permitted | LAZY.get(importer, set())
    return imported in permitted or found.imported in permitted


ALL_IMPORTS = [found for name, path in MODULES.items() for found in _imports(name, path)]


def test_every_module_has_a_place_in_the_layers():
    layers = {name.split(".")[0] for name in MODULES}
    assert layers <= {*ALLOWED, "cli", "__main__", "models", ""}


def test_layers_have_no_circle():
    assert [layer for layer, left in ALLOWED.items() if layer in left] == []


@pytest.mark.parametrize("layer", sorted({name.split(".")[0] for name in MODULES}))
def test_layer_imports_only_what_stands_to_its_left(layer):
    wrong = [
        f"eqcalc.{found.importer} imports eqcalc.{found.imported} (line {found.line})"
        for found in ALL_IMPORTS
        if found.importer.split(".")[0] == layer and not _is_allowed(found)
    ]
    assert wrong == []


def test_running_a_model_never_imports_networks_or_training():
    for layer in ("calculator", "engines", "blockwise", "simulate", "bench", "hosts"):
        assert not ALLOWED[layer] & {"nn", "architectures", "potential", "export", "training"}


@pytest.mark.parametrize(
    ("importer", "imported", "is_lazy", "allowed"),
    [
        ("engines.inductor", "export.compile", True, False),
        ("engines.loading", "compiling", True, False),
        ("compiling", "engines.packages", False, True),
        ("architectures.painn", "tabulated.convolutions", False, False),
        ("calculator", "potential", True, False),
        ("simulate.md", "architectures.painn", True, False),
        ("architectures.painn", "nn.mlp", False, True),
        ("nn.mlp", "architectures", False, False),
        ("export.model", "devices", False, True),
        ("export.model", "engines", False, False),
        ("cli.train", "training.run", True, True),
        ("graph", "neighbours", False, False),
        ("potential", "export", False, False),
    ],
)
def test_rule_tells_allowed_from_forbidden_imports(importer, imported, is_lazy, allowed):
    assert _is_allowed(Import(importer, imported, is_lazy, 1)) is allowed


def test_imports_of_every_form_are_seen(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text(
        "import eqcalc.graph\n"
        "from eqcalc.potential import Potential\n"
        "from eqcalc import architectures, __version__\n"
        "from ..nn.mlp import MLP\n"
        "if TYPE_CHECKING:\n    from eqcalc.export import export_model\n"
        "def lazily():\n    import importlib\n"
        "    from .run import train\n"
        "    importlib.import_module('eqcalc.calculator')\n"
    )
    found = {(f.imported, f.is_lazy) for f in _imports("training.sample", file)}
    assert found == {
        ("graph", False),
        ("potential", False),
        ("architectures", False),
        ("", False),
        ("nn.mlp", False),
        ("export", True),
        ("training.run", True),
        ("calculator", True),
    }


def test_only_the_exporter_scripts_and_compiles():
    calls = ("torch.jit.script", "torch.jit.save", "torch.jit.trace", "aoti_compile_and_package")
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found = [call for call in called if call.endswith(calls)]
        is_exporter = name.split(".")[0] == "export"
        assert found == [] or is_exporter, f"eqcalc.{name} calls {found}"


FRESH_PROCESS = """
import json, sys
{statement}
print(json.dumps(sorted(sys.modules)))
"""


def _modules_after(statement: str) -> set[str]:
    """Run an import in a fresh process; return the names of all modules then loaded."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("statement", ["import eqcalc", "from eqcalc import EqCalculator"])
def test_import_brings_no_extras(statement):
    assert _modules_after(statement) & HEAVY == set()


def test_importing_the_package_alone_loads_neither_torch_nor_ase():
    modules = _modules_after("import eqcalc")
    assert modules & {"torch", "ase", "numpy"} == set()


def test_calculator_loads_no_network_and_no_training():
    modules = _modules_after("from eqcalc import EqCalculator")
    loaded = {name.removeprefix("eqcalc.").split(".")[0] for name in modules if "eqcalc." in name}
    assert loaded & {"architectures", "potential", "export", "training", "data", "cli"} == set()
