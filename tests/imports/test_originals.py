"""The original packages are asked for their numbers only where somebody wants to compare."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from eqcalc.errors import ConfigError, MissingDependencyError
from eqcalc.importers import Choices, nequip, read_foreign, sevennet
from eqcalc.importers.originals import import_original

HERE = Path(__file__).parent


def test_missing_package_is_an_error_that_says_what_it_was_needed_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sevenn", None)
    file = read_foreign(HERE / "sevennet" / "xplor.pth")
    with pytest.raises(MissingDependencyError, match="comparison with the original needs sevenn"):
        sevennet.original(file, Choices())


def test_broken_package_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpackage.py").write_text("import matscipy_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"cannot be imported .*not_there"):
        import_original("brokenpackage")


def test_original_calculators_get_the_file_and_what_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Made:
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            calls.append((arguments, keywords))

        @classmethod
        def _from_saved_model(cls, *arguments: Any, **keywords: Any) -> Made:
            return cls(*arguments, **keywords)

    for package, module, name in (
        ("sevenn", "calculator", "SevenNetCalculator"),
        ("nequip", "ase", "NequIPCalculator"),
    ):
        inner = types.ModuleType(f"{package}.{module}")
        setattr(inner, name, Made)
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.{module}", inner)
    file = read_foreign(HERE / "sevennet" / "modal.pth")
    sevennet.original(file, Choices(modality="PBE"))
    assert calls[-1] == ((str(file.path),), {"device": "cpu", "modal": "PBE"})
    file = read_foreign(HERE / "nequip" / "readout.ckpt")
    with pytest.raises(ConfigError, match="give energy_unit"):
        nequip.original(file, Choices())
    nequip.original(file, Choices("kcal/mol", "Angstrom"))
    assert calls[-1][1]["energy_units_to_eV"] == pytest.approx(0.0433641)


def test_importing_imports_none_of_the_packages() -> None:
    program = (
        "import sys; from eqcalc.importers import Choices, read_foreign, nequip, sevennet\n"
        f"sevennet.read(read_foreign({str(HERE / 'sevennet' / 'xplor.pth')!r}), Choices())\n"
        f"nequip.read(read_foreign({str(HERE / 'nequip' / 'readout.nequip.zip')!r}), "
        "Choices('eV', 'Angstrom'))\n"
        "found = {'sevenn', 'nequip', 'e3nn', 'lightning', 'torch_geometric'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
