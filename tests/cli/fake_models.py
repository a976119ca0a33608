"""Stand-ins for ``eqcalc.model_file`` and ``eqcalc.calculator``: one model, of springs.

``python fake_models.py WORDS...`` runs the command line with them.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "simulate"))

from springs import Springs, ethanol

import eqcalc
from eqcalc.model_file.card import ModelCard

UNIVERSAL = {}  # elements by name
SHIPPED = {"painn-water": ["H2O", "H128O64"], "nequip-ethanol": ["C2H6O"], "gmn-nbody": []}
SIZES = {}  # bytes by name, of those that are not alike
PROPAGATORS = ["gmn-nbody"]
ASKED_FOR = []
FORECAST = None  # what every calculator foresees


def eq_calculator(model, *, device, dtype, engine, skin, max_edges, threads, trust):
    ASKED_FOR.append(
        {
            "model": model,
            "device": device,
            "dtype": dtype,
            "engine": engine,
            "skin": skin,
            "max_edges": max_edges,
            "threads": threads,
        }
    )
    springs = Springs(ethanol())
    springs.memory_forecast = lambda atoms: FORECAST
    springs.engine_facts = lambda n_atoms: {
        "engine": "springs",
        "device": "cpu",
        "dtype": "float64",
        "threads": threads or 1,
        "not_used": {"inductor": "springs are not compiled"},
    }
    return springs


def model_file_of(name, *, trust=False) -> SimpleNamespace:
    kind = "propagator" if str(name) in PROPAGATORS else "potential"
    card = ModelCard(
        name=str(name),
        architecture="springs",
        config={},
        elements=UNIVERSAL.get(str(name), []),
        cutoff=5.0,
        n_hops=1,
        dtype="float64",
        reference_energies={},
        scale=1.0,
        training_data={
            "compositions": SHIPPED.get(str(name), []),
            "universal": str(name) in UNIVERSAL,
            "level of theory": "PBE",
            "data": "MPtrj",
            "not good for": "molecules",
        },
        kind=kind,
    )
    return SimpleNamespace(card=card, path=Path(f"models/{name}/model.pt"), sha256="9a12")


def size_of(name) -> SimpleNamespace:
    return SimpleNamespace(st_size=SIZES.get(name, 1000))


def fakes() -> dict[str, ModuleType]:
    """Return the stand-ins by module name, for ``sys.modules``."""
    model_file, calculator = ModuleType("eqcalc.model_file"), ModuleType("eqcalc.calculator")
    model_file.available_models = lambda: list(SHIPPED)
    model_file.open_model_file = model_file.open_potential = model_file_of
    model_file.find_model = lambda name: SimpleNamespace(stat=lambda: size_of(name))
    model_file.read_card = lambda name: model_file_of(name).card
    calculator.EqCalculator = eq_calculator
    calculator.__path__ = [str(Path(eqcalc.__file__).parent / "calculator")]  # the rest is real
    return {"eqcalc.model_file": model_file, "eqcalc.calculator": calculator}


if __name__ == "__main__":
    sys.modules.update(fakes())
    from eqcalc.cli import main

    main()
