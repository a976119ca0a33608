"""Ranks share out the work in two ways, and both give the numbers of one rank."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import EXCHANGE, HALO, frames_of, run_input
from rarely import rarely_but
from test_same_numbers import NVE, require_close, require_energies_of, require_same, silicon

from eqcalc.model_file import read_card

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]

SKIN = 2.0  # Å; LAMMPS's own in units metal


@pytest.mark.parametrize("ranks", rarely_but((2, 4), (2, 3, 4)))
def test_both_ways_of_ranks_have_the_energies_of_one_rank(
    ranks: int, model_of: Export, tmp_path: Path
) -> None:
    """A row of domains narrower than ghosts reach: some come from beyond the next rank.

    The box is barely wider than the halo.
    """
    model, atoms = model_of("painn"), silicon()
    card = read_card(model)
    assert atoms.cell[0, 0] < ranks * (card.cutoff + SKIN)
    halo = card.cutoff * card.n_hops + SKIN
    assert halo < atoms.cell[0, 0] < 1.1 * halo
    one = run_input(tmp_path / "one", atoms, str(model), "Si", NVE.format(n=50))
    assert one.status == 0, one.text
    for way in (HALO, EXCHANGE):
        several = run_input(
            tmp_path / f"several-{way == HALO}",
            atoms,
            str(model),
            "Si",
            NVE.format(n=50),
            ranks=ranks,
            options=way,
            before=f"processors {ranks} 1 1",
        )
        assert several.status == 0, several.text
        assert ("ranks exchange features between layers" in several.text) == (way == EXCHANGE)
        assert len(one.thermo) == 6
        require_energies_of(one, several, len(atoms))
        for found, same in zip(frames_of(several, "Si"), frames_of(one, "Si"), strict=True):
            require_close(found.get_forces(), same.get_forces())
            np.testing.assert_allclose(
                found.get_potential_energies(), same.get_potential_energies(), rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("style", ["brick", "tiled"])
def test_domains_that_are_balanced_keep_the_numbers_of_the_calculator(
    style: str, model_of: Export, tmp_path: Path
) -> None:
    """Atoms in one half of the box alone; the domains move to them, in every tenth step."""
    model = model_of("painn")
    atoms = silicon()
    atoms.cell[0, 0] *= 2.0
    method = "rcb" if style == "tiled" else "shift x 10 1.05"
    balance = f"fix even all balance 10 1.0 {method}\n"
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "Si",
        balance + NVE.format(n=50),
        ranks=3,
        options=EXCHANGE,
        before=f"processors 3 1 1\ncomm_style {style}",
    )
    require_same(run, model, "Si", n_frames=6)
    spread = re.findall(r"Nlocal: +(\S+) ave +(\S+) max +(\S+) min", run.text)[-1]
    assert float(spread[1]) - float(spread[2]) < 16  # of 64 atoms on 3 ranks; one had none
