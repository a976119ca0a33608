"""A model's program may compute, and nothing else; what eqcalc exports passes, and only that."""

from __future__ import annotations

import os
from pathlib import Path

import ase.io
import pytest
import torch
from small_models import POTENTIALS, REFERENCE_ENERGIES, ethanol, small_options
from test_model_file import rewrite
from torch import Tensor, nn

from eqcalc import EqCalculator, load_model
from eqcalc.architectures import build
from eqcalc.cli import main
from eqcalc.errors import ModelFileError
from eqcalc.export import export_model
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import available_models, find_model, open_model_file
from eqcalc.model_file.entries import pack, read_entries, stamp
from eqcalc.model_file.program import check_program
from eqcalc.potential import Potential

SCATTER = "code/__torch__/eqcalc/nn/scatter.py"


def program(body: str, *, before: str = "", head: str = "def f(x: Tensor, n: int) -> Tensor:"):
    """Check a function of this body, as an entry of an archive."""
    lines = "\n".join(f"  {line}" for line in body.splitlines())
    return check_program({"code/__torch__/a.py": f"{before}{head}\n{lines}\n".encode()})


def foreign(models, tmp_path: Path, module: nn.Module, name: str = "foreign.pt") -> Path:
    """Return a whole model file whose program and state are those of another module."""
    path = tmp_path / name
    torch.jit.save(torch.jit.script(module), path)
    other = read_entries(path.read_bytes())
    own = read_entries(models["double"].read_bytes())
    path.write_bytes(stamp(pack(other | {k: v for k, v in own.items() if "extra/" in k})))
    return path


# --- what eqcalc writes


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POTENTIALS)
def test_what_every_architecture_exports_is_known(name, dtype, exact, tmp_path):
    network = build(name, **small_options(name)).to(dtype)
    potential = Potential(network, REFERENCE_ENERGIES, exact_isolated_atoms=exact)
    export_model(potential, tmp_path / "model.pt", elements=REFERENCE_ENERGIES)  # warns if not
    open_model_file(tmp_path / "model.pt").require_checked()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("painn", {"vector_norm": "published"}),
        ("painn", {"num_blocks": 1, "num_radial_basis": 20}),
        ("gvp", {"vector_norm": "published"}),
        ("nequip", {"l_max": 3, "num_layers": 1}),
        ("nequip", {"parity": False}),
        ("dimenet", {"num_spherical_basis": 3, "num_radial_basis": 2}),
    ],
)
def test_what_an_architecture_exports_with_other_options_is_known(name, options, tmp_path):
    network = build(name, **{**small_options(name), **options})
    path = tmp_path / "model.pt"
    export_model(Potential(network, REFERENCE_ENERGIES), path, elements=REFERENCE_ENERGIES)
    open_model_file(path).require_checked()


@pytest.mark.parametrize("name", available_models())
def test_every_shipped_model_is_known_and_has_a_digest(name):
    file = open_model_file(name)
    file.require_checked()
    assert len(file.card.digest) == 64


# --- what others write


class _Writes(nn.Module):
    """Takes itself apart at loading and empties a file."""

    def __init__(self) -> None:
        super().__init__()
        self.w = 3

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]
        t = torch.from_file("victim.txt", True, 22, dtype=torch.uint8)
        t.zero_()
        self.w = int(t.sum())

    def forward(self, a: Tensor, v: Tensor, e: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return v, v


class _Saves(nn.Module):
    def forward(self, a: Tensor, v: Tensor, e: Tensor, n: int) -> tuple[Tensor, Tensor]:
        torch.save(v, "victim.txt")
        return v, v


class _Waits(nn.Module):
    def forward(self, a: Tensor, v: Tensor, e: Tensor, n: int) -> tuple[Tensor, Tensor]:
        while n >= 0:
            v = v + 0.0
        return v, v


class _Loops(nn.Module):
    def forward(self, a: Tensor, v: Tensor, e: Tensor, n: int) -> tuple[Tensor, Tensor]:
        for _ in range(1000000000000000000):
            v = v + 0.0
        return v, v


class _Warns(nn.Module):
    def forward(self, a: Tensor, v: Tensor, e: Tensor, n: int) -> tuple[Tensor, Tensor]:
        print("hello")
        return v, v


@pytest.mark.parametrize("kind", [_Writes, _Saves, _Waits, _Loops, _Warns])
def test_a_program_that_does_more_than_compute_is_refused_before_it_is_loaded(
    kind, models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    victim = tmp_path / "victim.txt"
    victim.write_text("the user's own file".ljust(64))
    path = foreign(models, tmp_path, kind())
    for load in (load_model, EqCalculator, lambda p: rebuild_potential(open_model_file(p))):
        with pytest.raises(ModelFileError, match=r"foreign\.pt' (was not loaded|is damaged)"):
            load(path)
    with pytest.raises(ModelFileError, match=r"was not loaded|is damaged"):
        open_model_file(path).archive()
    assert victim.read_text().startswith("the user's own file")


def test_info_says_what_is_wrong_with_a_refused_file_without_running_it(
    models, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim.txt").write_text("mine")
    path = foreign(models, tmp_path, _Saves())
    main_in_process(["info", str(path)])
    out = " ".join(capsys.readouterr().out.split())
    assert "torch.save, which is not among the known operators" in out
    assert (tmp_path / "victim.txt").read_text() == "mine"


def main_in_process(words: list[str]) -> None:
    """Run the command line here."""
    with pytest.raises(SystemExit):
        main(words)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch.fill_(atomic_numbers, 6)", "writes into the atoms and edges"),
        ("torch.mul_(torch.detach(edge_vectors), 1.5)", "writes into the atoms and edges"),
    ],
)
def test_a_program_that_writes_into_its_input_is_refused(line, reason, tmp_path):
    def change(text: bytes) -> bytes:
        head, tail = text.rsplit(b"    return ", 1)
        return head + f"    _own = {line}\n    return ".encode() + tail

    shipped = find_model("painn-ethanol")
    path = rewrite(shipped, tmp_path / "m.pt", {"export/model.py": change})
    with pytest.raises(ModelFileError, match=reason):
        load_model(path, device="cpu")


@pytest.mark.parametrize("returned", ["torch.unsqueeze(energies, 1)", "torch.sum(energies)"])
def test_a_program_that_returns_other_shapes_is_refused(returned, tmp_path):
    def change(text: bytes) -> bytes:
        return text.replace(b"torch.detach(energies)", returned.encode())

    path = rewrite(find_model("painn-ethanol"), tmp_path / "m.pt", {"export/model.py": change})
    with pytest.raises(ModelFileError, match=r"returned energies and edge gradients of shape"):
        load_model(path, device="cpu")


def unknown(models, tmp_path: Path) -> Path:
    """Return a model whose program holds what eqcalc does not know, and does no harm."""
    change = {SCATTER: lambda text: text + b"def own() -> int:\n  print(3)\n  return 3\n"}
    return rewrite(models["double"], tmp_path / "own.pt", change)


@pytest.mark.parametrize(
    "words",
    [
        ["md", "a.xyz", "--model", "own.pt", "--steps", "1"],
        ["relax", "a.xyz", "--model", "own.pt", "--fmax", "100"],
        ["energy", "a.xyz", "--model", "own.pt"],
        ["evaluate", "own.pt", "a.xyz", "--trust-data"],
        ["bench", "own.pt", "a.xyz", "--seconds", "0.01"],
        pytest.param(["compile", "own.pt"], marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_a_verb_runs_an_unknown_program_only_where_it_is_told_to(
    words, models, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    unknown(models, tmp_path)
    frame = ethanol()
    frame.calc = EqCalculator(models["double"], device="cpu")
    frame.get_forces()
    ase.io.write("a.xyz", frame)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code not in (None, 0)
    told = " ".join(capsys.readouterr().err.split())
    assert "calls print, which is no function" in told
    assert "trust" in told
    if words[0] != "compile":  # which takes a minute
        with pytest.raises(SystemExit) as ended:
            main([*words, "--trust"])
        assert ended.value.code == 0


def test_a_trusted_file_is_loaded_whatever_its_program_holds(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = unknown(models, tmp_path)
    with pytest.raises(ModelFileError, match=r"calls print, which is no function.*trust=True"):
        load_model(path, device="cpu")
    assert load_model(path, device="cpu", trust=True).card.name == "double"
    calculator = EqCalculator(path, device="cpu", trust=True)
    assert calculator.todict()["trust"] is True
    assert "trust" not in EqCalculator(models["double"], device="cpu").todict()


def test_exporting_a_network_that_needs_trust_says_so(tmp_path):
    class Noisy(nn.Module):
        cutoff, n_hops = 4.0, 1

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def atomic_energies(self, graph: AtomicGraph) -> Tensor:
            noise = torch.rand(1).to(graph.edge_vectors.dtype) * 0.0
            lengths = graph.edge_vectors.square().sum(dim=1) * self.weight
            total = lengths.new_zeros(graph.atomic_numbers.shape[0])
            return total.index_add(0, graph.edge_index[1], lengths) + noise

    potential = Potential(Noisy(), REFERENCE_ENERGIES)
    with pytest.warns(UserWarning, match=r"loaded with trust=True .* torch\.rand"):
        export_model(potential, tmp_path / "m.pt", elements="H")


@pytest.mark.parametrize("entry", ["code/evil.so", "extra/more.so", "lib/a.py", "bytecode.pkl"])
def test_an_entry_that_belongs_to_no_model_is_refused(entry, models, tmp_path):
    entries = read_entries(models["double"].read_bytes()) | {entry: b"x"}
    path = tmp_path / "m.pt"
    path.write_bytes(stamp(pack(entries)))
    with pytest.raises(ModelFileError, match=rf"it holds {entry}, which belongs to no model"):
        load_model(path)


# --- one construct at a time


def test_a_function_of_tensors_passes():
    program(
        "y = torch.mul(x, 2.)\nfor k in range(torch.len([1])):\n  y = torch.add(y, k)\nreturn y"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return torch.from_file('x')", "torch.from_file, which is not among"),
        ("torch.save(x, 'y')", "torch.save, which is not among"),
        ("return ops.aten.save(x, 'y')", "ops.aten.save, which is not among"),
        ("return ops.profiler.x(x)", "ops.profiler.x, which is not among"),
        ("return (x).save('y')", "calls x.save, which is no method"),
        ("return ('y').from_file(True, 3)", "which is no method"),
        ("return (torch.mul(x, 2)).save('y')", "which is no method"),
        ("return getattr(x, 'save')", "unknown attribute save"),
        ("return getattr(torch, 'save')", "unknown"),
        ("y = torch.save\nreturn y", "uses torch.save"),
        ("y = torch\nreturn y", "unknown name torch"),
        ("torch = x\nreturn x", "gives the name torch another meaning"),
        ("return print(x)", "calls print, which is no function"),
        ("return open('x')", "calls open, which is no function"),
        ("return eval('x')", "calls eval, which is no function"),
        ("return x.data", "uses x.data"),
        ("return fork(x)", "calls fork"),
        ("return [y for y in x]", "which no exporter writes"),
        ("return (lambda: x)()", "which no exporter writes"),
        ("import os\nreturn x", "which no exporter writes"),
        ("with x:\n  pass\nreturn x", "which no exporter writes"),
        ("del x\nreturn x", "which no exporter writes"),
        ("self.x = x\nreturn x", "which no exporter writes"),
        ("return x + x", "which no exporter writes"),
        ("return f'{x}'", "which no exporter writes"),
        ("return b'x'", "which no exporter writes"),
        ("return (y := x)", "which no exporter writes"),
        ("return torch.cat(*x)", "which no exporter writes"),
        ("return x  # then more", "character or comment"),
        ("return 'é'", "not ASCII"),
        ("\treturn x", "character or comment"),
        ("return \\\n  x", "character or comment"),
        ('return """x"""', "character or comment"),
        ("return " + "(" * 300 + "x" + ")" * 300, "is not readable"),
        ("return unchecked_cast(__torch__.A, x)", "has a type that no exporter writes"),
        ("return __torch__.torch.classes.x.Y(3)", "is no function of it"),
        ("return CONSTANTS.c0.save", "uses CONSTANTS.c0.save|unknown"),
        ("while True:\n  y = x\nreturn x", "which no exporter writes"),
        ("while torch.lt(n, 3):\n  y = x\nreturn x", "which no exporter writes"),
        ("for k in range(1001):\n  y = x\nreturn x", "loop whose end is not known: 1001"),
        ("for k in range(torch.mul(n, n)):\n  y = x\nreturn x", "loop whose end is not known"),
        ("for k in range(int(x)):\n  y = x\nreturn x", "loop whose end is not known"),
        ("m = 9\nfor k in range(m):\n  m = torch.add(m, m)\nreturn x", "end is not known: m"),
        ("for k in x:\n  y = k\nreturn x", "which no exporter writes"),
        ("return __torch__.a.f(x, n)", "calls itself"),
    ],
)
def test_what_no_exporter_writes_is_refused(body, reason):
    with pytest.raises(ValueError, match=reason):
        program(body)


def test_a_parameter_is_no_end_of_a_loop_where_a_call_makes_it_large():
    loop = "def g(x: Tensor, n: int) -> Tensor:\n  for k in range(n):\n    y = x\n  return x\n"
    program("return __torch__.a.g(x, torch.len([1]))", before=loop)
    with pytest.raises(ValueError, match="loop whose end is not known"):
        program("return __torch__.a.g(x, torch.mul(n, 1000000))", before=loop)


def test_functions_that_call_each_other_without_end_are_refused():
    doubling = "def g0(x: Tensor) -> Tensor:\n  return x\n"
    for k in range(40):
        again = f"__torch__.a.g{k}"
        doubling += f"def g{k + 1}(x: Tensor) -> Tensor:\n  y = {again}(x)\n  return {again}(y)\n"
    with pytest.raises(ValueError, match=r"comes to more than 1e\+07 statements"):
        program("return x", before=doubling)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            "class A(Module):\n  def __setstate__(self, x: int) -> int:\n    return x\n",
            "__setstate__",
        ),
        ("class A(Interface):\n  pass\n", "neither a Module nor a NamedTuple"),
        ("class A(Module):\n  x = torch.save(3)\n", "which no exporter writes"),
        ("class A(Module):\n  x : Final[int] = torch.save(3)\n", "is no number or text"),
        ("x = 3\n", "which no exporter writes"),
        ("def f(x: Tensor, n: int) -> Tensor:\n  return x\n", "is defined twice"),
        ("def g(x: Tensor=torch.save(3)) -> Tensor:\n  return x\n", "torch.save, which is not"),
        ("def g(x: torch.save) -> Tensor:\n  return x\n", "has a type that no exporter writes"),
        ("@torch.save\ndef g(x: Tensor) -> Tensor:\n  return x\n", "declared as no exporter does"),
        ("def g(*x: Tensor) -> Tensor:\n  return x\n", "declared as no exporter does"),
    ],
)
def test_what_no_exporter_declares_is_refused(before, reason):
    with pytest.raises(ValueError, match=reason):
        program("return x", before=before)


@pytest.mark.parametrize("name", ["code/a.py", "code/__torch__/../a.py", "code/__torch__/a-b.py"])
def test_a_module_outside_of_the_program_is_refused(name):
    with pytest.raises(ValueError, match="is no part of a program"):
        check_program({name: b"def f() -> int:\n  return 3\n"})


def test_a_class_in_the_name_of_torchs_own_is_refused():
    with pytest.raises(ValueError, match="stands for a class of torch itself"):
        check_program({"code/__torch__/torch/classes/x.py": b"class A(Module):\n  pass\n"})


def test_what_torch_loads_holds_nothing_but_what_was_checked(models, tmp_path):
    path, entries = tmp_path / "old.pt", read_entries(models["double"].read_bytes())
    source = {"code/__torch__/eqcalc/potential.py.debug_pkl": b"of torch, in files of before"}
    path.write_bytes(stamp(pack(entries | source)))
    names = set(read_entries(open_model_file(path).archive()))
    assert not [name for name in names if "debug_pkl" in name or "extra/" in name]
    assert {"data.pkl", "constants.pkl", "version"} <= names


def test_a_file_that_is_replaced_between_check_and_load_is_refused(models, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(models["double"].read_bytes())
    file = open_model_file(path)
    path.write_bytes(models["other"].read_bytes())
    os.utime(path, (1, 1))
    with pytest.raises(ModelFileError, match="was replaced by another one while it was in use"):
        file.archive()


def test_the_one_loop_with_a_condition_that_older_exports_hold_is_known():
    old = (
        "polynomials = torch.cat([torch.ones_like(x), x], 1)\n"
        "_12 = torch.lt((torch.size(polynomials))[1], n)\n"
        "polynomials0 = polynomials\n"
        "_13 = _12\n"
        "while _13:\n"
        "  m = torch.sub((torch.size(polynomials0))[1], 1)\n"
        "  _14 = torch.slice(torch.slice(polynomials0), 1, m)\n"
        "  _15 = torch.mul(_14, 2.)\n"
        "  _16 = torch.slice(torch.slice(polynomials0), 1, 1)\n"
        "  _17 = torch.mul(_15, _16)\n"
        "  _18 = torch.slice(torch.slice(polynomials0), 1, None, m)\n"
        "  more = torch.sub(_17, torch.flip(_18, [1]))\n"
        "  polynomials1 = torch.cat([polynomials0, more], 1)\n"
        "  _19 = torch.lt((torch.size(polynomials1))[1], n)\n"
        "  _13, polynomials0 = _19, polynomials1\n"
        "return polynomials0"
    )
    program(old)
    with pytest.raises(ValueError, match="which no exporter writes"):
        program(old.replace("torch.cat([polynomials0, more], 1)", "torch.mul(polynomials0, 1)"))


# --- the state


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"n_channels : int", b"n_channels : List[int]", r"declared as List\[int\], found int"),
        (b"cutoff : float", b"cutoff : Tensor", "declared as Tensor, found float"),
        (b"embedding : __torch__", b"more : int\n  embedding : __torch__", "lacks more"),
        (b"class Message(", b"class Massage(", "no exporter writes|not in its program"),
        (b"def atomic_energies(", b"def other(", "which is no method of it"),
    ],
)
def test_a_state_that_is_not_what_the_program_declares_is_refused(
    old, new, reason, models, tmp_path
):
    # torch gives a class that it compiles once more a file of its own.
    entries = read_entries(models["double"].read_bytes())
    parts = [name for name in entries if "architectures/painn" in name and name.endswith(".py")]
    changed = {name: entries[name].replace(old, new) for name in parts}
    assert any(changed[name] != entries[name] for name in parts)
    path = tmp_path / "m.pt"
    path.write_bytes(stamp(pack(entries | changed)))
    with pytest.raises(ModelFileError, match=reason):
        load_model(path, device="cpu")


def test_a_program_that_raises_is_one_error(models, tmp_path):
    def change(text: bytes) -> bytes:
        head, tail = text.split(b"  return _2", 1)
        return head + b'  ops.prim.RaiseException("no", "builtins.ValueError")\n  return _2' + tail

    path = rewrite(models["double"], tmp_path / "m.pt", {SCATTER: change})
    with pytest.raises(ModelFileError, match=r"does not reproduce its own passport: .*no"):
        load_model(path, device="cpu")


def test_the_command_line_trusts_only_where_it_is_told_to(models, tmp_path, capsys):
    change = {SCATTER: lambda text: text + b"def own() -> int:\n  print(3)\n  return 3\n"}
    path = rewrite(models["double"], tmp_path / "own.pt", change)
    for words, said in (([], "was not loaded"), (["--trust"], "passport reproduced")):
        main_in_process(["info", str(path), *words])
        assert said in " ".join(capsys.readouterr().out.split())
