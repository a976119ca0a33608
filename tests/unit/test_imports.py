"""A layer imports only what stands to its left, and importing eqcalc is cheap."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import eqcalc

PACKAGE = Path(eqcalc.__file__).parent

_BASE = {"errors", "units", "files"}
_GRAPHS = _BASE | {"graph", "host_memory", "operators", "skin_tuner", "transfers", "neighbours"}
_RUNNING = _GRAPHS | {"passport", "model_card", "model_file", "engines"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "files": {"errors"},
    "graph": _BASE,
    # networks: graph -> nn -> architectures -> potential
    "nn": _BASE | {"graph"},
    "architectures": _BASE | {"graph", "nn"},
    "potential": _BASE | {"graph", "nn", "architectures"},
    # running a model file: no network in sight
    "lattice": set(),
    "cell_list": {"lattice"},
    "host_memory": set(),
    "operators": set(),
    "skin_tuner": set(),
    "transfers": set(),
    "pair_search": {"lattice", "cell_list"},
    "neighbours": _BASE
    | {"graph", "lattice", "operators", "pair_search", "skin_tuner", "transfers"},
    "reduction": _BASE | {"graph", "operators"},
    "passport": _GRAPHS,
    "model_card": set(),
    "model_file": _BASE | {"model_card"},
    "engines": _GRAPHS | {"passport", "model_file"},
    "batched": _RUNNING | {"reduction"},
    "chunks": {"graph"},
    "atom_order": {"chunks"},
    "results": _RUNNING,
    "many": _RUNNING | {"batched", "blockwise", "chunks", "reduction", "results"},
    "memory": _RUNNING,
    "blockwise": _RUNNING | {"batched", "chunks", "memory"},
    "exact_cache": set(),
    "calculator": _RUNNING
    | {"atom_order", "batched", "blockwise", "chunks", "exact_cache", "many", "reduction",
       "results"},
    "simulate": _RUNNING | {"calculator", "exact_cache"},
    "adapters": _RUNNING | {"calculator"},
    # data, and models judged against them
    "data": _GRAPHS,
    "evaluation": _RUNNING | {"batched", "blockwise", "calculator", "chunks", "data"},
    "bench_structures": _BASE | {"simulate"},
    "bench": _RUNNING | {"calculator"},
    "plots": _RUNNING | {"calculator", "data", "evaluation", "bench"},
    # making models
    "export": _GRAPHS
    | {"nn", "architectures", "potential", "passport", "model_file", "engines.devices"},
    "training": _RUNNING
    | {"nn", "architectures", "potential", "export", "data", "evaluation", "plots"},
    "dynamics": _RUNNING
    | {"nn", "architectures", "potential", "export", "data", "evaluation", "plots", "training"},
}
"""Layer -> what its modules may import besides themselves; ``cli`` may import everything.

A dotted name allows that one module only.
"""

LAZY: dict[str, set[str]] = {
    # An engine asks the exporter, inside a function, to compile what it cannot itself.
    "engines": {"export"},
    # ``from eqcalc import EqCalculator`` without the cost in ``import eqcalc``.
    "": {"calculator", "engines", "model_file"},
}
"""Further imports, allowed inside functions or under TYPE_CHECKING only."""

HEAVY = {"e3nn", "h5py", "lightning", "matplotlib", "pytorch_lightning", "tensorboard",
         "torch_scatter"}  # fmt: skip


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
    if importer in ("cli", imported):
        return True
    if imported == "":
        return True  # the package itself: __version__, and what it imports lazily
    permitted = ALLOWED.get(importer, set())
    if found.is_lazy:
        permitted = permitted | LAZY.get(importer, set())
    return imported in permitted or found.imported in permitted


ALL_IMPORTS = [found for name, path in MODULES.items() for found in _imports(name, path)]


def test_every_module_has_a_place_in_the_table():
    layers = {name.split(".")[0] for name in MODULES}
    assert layers <= {*ALLOWED, "cli", ""}


@pytest.mark.parametrize("layer", sorted({name.split(".")[0] for name in MODULES}))
def test_layer_imports_only_what_stands_to_its_left(layer):
    wrong = [
        f"eqcalc.{found.importer} imports eqcalc.{found.imported} (line {found.line})"
        for found in ALL_IMPORTS
        if found.importer.split(".")[0] == layer and not _is_allowed(found)
    ]
    assert wrong == []


def test_table_of_layers_has_no_circle():
    settled: set[str] = set()
    while len(settled) < len(ALLOWED):
        free = {
            layer
            for layer, allowed in ALLOWED.items()
            if layer not in settled and {name.split(".")[0] for name in allowed} <= settled
        }
        assert free, f"these layers import each other: {sorted(set(ALLOWED) - settled)}"
        settled |= free


def test_running_a_model_never_imports_networks_or_training():
    for layer in ("calculator", "engines", "simulate", "adapters"):
        assert not ALLOWED[layer] & {"architectures", "potential", "training"}


@pytest.mark.parametrize(
    ("importer", "imported", "is_lazy", "allowed"),
    [
        ("engines.inductor", "export", True, True),
        ("engines.inductor", "export", False, False),
        ("calculator", "potential", True, False),
        ("simulate.md", "architectures.painn", True, False),
        ("architectures.painn", "nn.mlp", False, True),
        ("nn.mlp", "architectures", False, False),
        ("export", "engines.devices", False, True),
        ("export", "engines", False, False),
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
        ("graph", False), ("potential", False), ("architectures", False), ("", False),
        ("nn.mlp", False), ("export", True), ("training.run", True), ("calculator", True),
    }  # fmt: skip


def test_only_the_exporter_scripts_and_compiles():
    calls = ("torch.jit.script", "torch.jit.save", "torch.jit.trace", "aoti_compile_and_package")
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found = [call for call in called if call.endswith(calls)]
        assert found == [] or name == "export", f"eqcalc.{name} calls {found}"


FRESH_PROCESS = """
import json, sys, time
start = time.perf_counter()
{statement}
print(json.dumps({{"seconds": time.perf_counter() - start, "modules": sorted(sys.modules)}}))
"""


def _import_alone(statement: str) -> tuple[float, set[str]]:
    """Run an import in a fresh process; return its seconds and all modules then loaded."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS.format(statement=statement)],
        capture_output=True, text=True, timeout=120, check=True, cwd=PACKAGE.parent,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    return answer["seconds"], set(answer["modules"])


@pytest.mark.parametrize("statement", ["import eqcalc", "from eqcalc import EqCalculator"])
def test_import_is_quick_and_brings_no_extras(statement):
    times = []
    for _ in range(3):  # the best of three: others may be using the machine
        seconds, modules = _import_alone(statement)
        times.append(seconds)
        if seconds < 3.0:
            break
    assert min(times) < 3.0
    assert modules & HEAVY == set()


def test_importing_the_package_alone_loads_neither_torch_nor_ase():
    _, modules = _import_alone("import eqcalc")
    assert modules & {"torch", "ase", "numpy"} == set()


def test_calculator_loads_no_network_and_no_training():
    _, modules = _import_alone("from eqcalc import EqCalculator")
    loaded = {name.removeprefix("eqcalc.").split(".")[0] for name in modules if "eqcalc." in name}
    assert loaded & {"architectures", "potential", "export", "training", "data", "cli"} == set()
