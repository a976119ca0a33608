"""Files that earlier versions wrote load and give what they gave (tests/data/kept)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import ETHANOL_FRAMES

from eqcalc import EqCalculator
from eqcalc.dynamics import Propagator
from eqcalc.model_file import open_model_file
from eqcalc.simulate import resume_md
from eqcalc.simulate.checkpoint import read_checkpoint
from eqcalc.training.finish import export_run
from eqcalc.training.training_folder import TrainingFolder

KEPT = ETHANOL_FRAMES.parent / "kept"
VERSIONS = sorted(path.name for path in KEPT.iterdir() if (path / "expected.json").exists())
sys.path.insert(0, str(KEPT))

from keep import N_STEPS, N_STOPPED, OBJECTS, particles, results  # noqa: E402


def expected(version: str) -> dict[str, Any]:
    return json.loads((KEPT / version / "expected.json").read_text())


MODELS = [(version, name) for version in VERSIONS for name in expected(version)["models"]]


def test_files_of_a_version_are_kept():
    assert VERSIONS
    assert len(MODELS) >= 7


@pytest.mark.parametrize(("version", "name"), MODELS)
def test_a_kept_model_passes_its_passport_and_gives_what_it_gave(version, name):
    path = KEPT / version / "models" / f"{name}.pt"
    found, kept = results(path), expected(version)["models"][name]
    assert found["energy"] == pytest.approx(kept["energy"], rel=1e-12)
    np.testing.assert_allclose(found["forces"], kept["forces"], rtol=0, atol=1e-9)
    assert open_model_file(path).card.architecture == name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_propagator_moves_as_it_did(version):
    atoms, kept = particles(), expected(version)["propagator"]
    path = KEPT / version / "models" / "propagator.pt"
    Propagator(path, device="cpu").run(atoms, 2, OBJECTS)
    np.testing.assert_allclose(atoms.positions, kept["positions"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_momenta(), kept["momenta"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_run_goes_on_as_it_would_have(version, tmp_path):
    folder = Path(shutil.copytree(KEPT / version / "run", tmp_path / "run"))
    assert read_checkpoint(folder).step == N_STOPPED
    calculator = EqCalculator(KEPT / version / "models" / "painn.pt", engine="torchscript")
    # Another version may sum in another order, and says that it is no longer exact.
    resume_md(folder, calculator, n_steps=N_STEPS)
    found = read_checkpoint(folder)
    assert found.step == N_STEPS
    np.testing.assert_allclose(
        found.atoms.positions, expected(version)["run"]["positions"], rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_training_is_exported_as_it_was(version, tmp_path):
    folder = Path(shutil.copytree(KEPT / version / "training", tmp_path / "run"))
    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({**manifest, "paths_relative_to": str(tmp_path)})
    )
    model = export_run(TrainingFolder(folder), tmp_path / "model").path
    found, kept = results(model), expected(version)["training"]
    assert found["energy"] == pytest.approx(kept["energy"], rel=1e-7)
    np.testing.assert_allclose(found["forces"], kept["forces"], rtol=0, atol=1e-5)
