"""What a training starts from that begins with the weights of a model.

The network, its options and the scale are the file's. Its reference energies μ_z become
μ_z + c_z, where c depends on ``reference_energies`` of the training file:

"shifted"
    c minimises Σ_frames (E - E_model - Σ_z n_z c_z)² over the training frames: what another
    level of theory adds to the energy of each element. The network's part of an energy stays
    what it learnt. Where the compositions do not fix c it is the smallest one.
"kept"
    c = 0: the new energies are at the level of the file's.
"least_squares", a table of energies
    μ + c are those energies; least_squares fits them to the totals, as if the network's part
    were zero on average, which is so for models that were trained that way.
"isolated_atoms"
    an atom alone has the energy of the data set's, see :class:`eqcalc.potential.Potential`.

The run keeps what it starts from as a model file of its own (``start.pt``): for the table of
errors before and after, and for resuming when the parent is gone.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from ase.data import chemical_symbols

from eqcalc.data import (
    LabelledFrame,
    reference_energies,
    reference_energies_by_least_squares,
)
from eqcalc.devices import resolve_dtype
from eqcalc.elements import atomic_number, symbols_of
from eqcalc.engines import Model, load_model
from eqcalc.errors import ModelFileError, UnknownModelError, listing
from eqcalc.evaluation import Comparison, evaluate
from eqcalc.export import export_model, rebuild_potential
from eqcalc.graph import graph_of_atoms_alone
from eqcalc.model_file import MODEL_NAME, ModelCard, ModelFile, open_model_file
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form
from eqcalc.training.config import TrainingConfig, TrainingOptions
from eqcalc.training.data import TrainingData
from eqcalc.training.freezing import Frozen, freeze
from eqcalc.training.loss import Residuals, loss
from eqcalc.training.network import Start, graphs_of, notes_on_neighbours
from eqcalc.training.parent import (
    about_parent,
    chosen_elements,
    notes_on_trained,
    open_parent,
    refuse_contradictions,
    refuse_unknown_elements,
)
from eqcalc.training.replay import Replay
from eqcalc.training.restriction import restrict

__all__ = [
    "CHANGED",
    "LOSS_BEFORE",
    "OF_MANIFEST",
    "build_fine_tuning",
    "read_start",
    "resume_fine_tuning",
]

CHANGED = "reference energies changed by (eV)"
PLACE, ELEMENTS = "path", "elements that stay"
AS_IT_IS, BEFORE = "validation errors of the file as it is", "validation errors before training"
LOSS_BEFORE = "validation loss before training"
OF_MANIFEST = (PLACE, ELEMENTS, AS_IT_IS, BEFORE, LOSS_BEFORE)
"""What a run's manifest says of the model that it starts from, and the card of its result not."""

_N_PASSPORT_FRAMES = 3
_ANOTHER_LEVEL = 0.1  # eV/atom; of frames at its own level a model is wrong by far less


def build_fine_tuning(
    config: TrainingConfig,
    data: TrainingData,
    replay: Optional[Replay] = None,
    *,
    trust: bool = False,
) -> Start:
    """Build what a training starts from that begins with a model's weights.

    Parameters
    ----------
    trust : the program of the model's file may be anything

    Raises
    ------
    UnknownModelError, ModelFileError : there is no such model, or it cannot be rebuilt.
    UnsupportedElementError : it does not know an element of the frames.
    ConfigError : the training file contradicts the model, or ``freeze`` means nothing.
    DataError : an element has no reference energy, or no atom has a neighbour.
    GraphError : a frame has NaN positions or coincident atoms.
    """
    file = open_parent(config, trust=trust)
    card = file.card
    roles = data.by_role()
    if replay is not None:
        roles |= {"replayed": replay.train, "set aside": replay.validation}
    refuse_unknown_elements(card, roles)
    odd = notes_on_trained(card, {k: v for k, v in data.by_role().items() if k != "training"})
    whole = rebuild_potential(file)
    refuse_contradictions(config, card, whole)
    needed = {*data.train.elements, *([] if replay is None else replay.elements)}
    symbols = chosen_elements(config, card, needed)
    potential = restrict(whole, card, symbols)
    freeze(potential, config.training.freeze)  # refused before anything takes long

    model = load_model(file.path, trust=trust)
    energies = _new_references(config, data, potential, model)
    changes = {z: energies[z] - float(potential.reference_energies[z]) for z in energies}
    for number, energy in energies.items():
        potential.reference_energies[number] = energy
    as_it_is = evaluate(model, data.validation.frames, source=data.validation.source)
    before = _corrected(as_it_is, data.validation.frames, changes)
    # Replayed labels follow the reference energies, so that the file as it is tells their errors.
    aside = None if replay is None else replay.validation
    of_old = None if aside is None else evaluate(model, aside.frames, source=aside.source)

    about = about_parent(file)
    about["reference energies by"] = _name_of_method(config)
    told = {**about, CHANGED: {chemical_symbols[z]: change for z, change in changes.items()}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_NAME
        export_model(
            potential.to(resolve_dtype(config.dtype or card.dtype)),
            path,
            elements=symbols,
            name=f"{card.name}, as {config.name} starts from it",
            frames=[frame.atoms for frame in data.validation.frames[:_N_PASSPORT_FRAMES]],
            description=card.description,
            licence=config.licence or card.licence,
            training_data=told,
            trained_frames=card.trained_frames,
        )
        start = resume_fine_tuning(config, data, replay, path)
        content = path.read_bytes()
    parent = {
        **(start.parent or {}),
        PLACE: str(file.path.resolve()),
        ELEMENTS: symbols,
        AS_IT_IS: as_it_is.summary(),
        BEFORE: before.summary(),
        LOSS_BEFORE: _loss(before, config.training),
    }
    said = [
        _about_model(card, symbols, start.potential),
        _about_references(config, data, changes),
        *start.said,
        _about_errors(before, as_it_is, changes),
    ]
    if of_old is not None and aside is not None:
        said.append(f"MAE of the file on {of_old.n_frames} old frames set aside: {_maes(of_old)}")
        odd += _notes_on_level(of_old, card, aside.source)
    return start._replace(model=content, parent=parent, said=said, notes=[*start.notes, *odd])


def resume_fine_tuning(
    config: TrainingConfig, data: TrainingData, replay: Optional[Replay], path: Path
) -> Start:
    """Build what a training starts from out of the model file that its run keeps.

    Raises
    ------
    ModelFileError : the file is missing, damaged, or cannot be rebuilt.
    ConfigError, DataError, GraphError : as :func:`build_fine_tuning`.
    """
    file, potential = _read(path, config)
    potential.architecture = exact_form(potential.architecture)
    frozen = freeze(potential.train(), config.training.freeze)
    train, validation = (graphs_of(each, potential) for each in (data.train, data.validation))
    notes = notes_on_neighbours(data, (train, validation), potential.cutoff, config)
    told = dict(file.card.training_data)
    start = Start(
        {"name": file.card.architecture, **file.card.config},
        potential,
        train,
        validation,
        notes,
        said=[_about_frozen(frozen)] if frozen.names else [],
        parent=told | _about(config, frozen),
    )
    if replay is None or config.replay is None:
        return start
    told |= replay.about(config.replay.fraction)
    changes = {atomic_number(symbol): change for symbol, change in told[CHANGED].items()}
    shifted = replay.shifted(changes)
    return start._replace(
        replayed=graphs_of(shifted.train, potential),
        replay_validation=graphs_of(shifted.validation, potential),
        parent=told | _about(config, frozen),
    )


def read_start(path: Path, config: TrainingConfig) -> Potential:
    """Return the potential that a run keeps as what it started from.

    Raises
    ------
    ModelFileError : the file is missing, damaged, or cannot be rebuilt.
    """
    return _read(path, config)[1]


def _read(path: Path, config: TrainingConfig) -> tuple[ModelFile, Potential]:
    try:
        file = open_model_file(path, trust=True)  # the run wrote it
    except UnknownModelError as error:
        raise ModelFileError(
            f"'{path}', the model that the run started from, is gone; put it back, or start the "
            "run again with overwrite=True."
        ) from error
    potential = rebuild_potential(file)
    if config.data.isolated_atoms_are_exact:
        for symbol, energy in _energies_alone(potential, file.card.elements).items():
            potential.reference_energies[atomic_number(symbol)] = energy
        potential.exact_isolated_atoms = True
    return file, potential


def _new_references(
    config: TrainingConfig, data: TrainingData, potential: Potential, model: Model
) -> dict[int, float]:
    """Return reference energies in eV by atomic number, of all elements that stay."""
    known = torch.nonzero(~torch.isnan(potential.reference_energies)).flatten().tolist()
    energies = {z: float(potential.reference_energies[z]) for z in known}
    method, frames = config.reference_method, data.train.frames
    if method == "kept":
        return energies
    if method == "shifted":
        found = evaluate(model, frames, source=data.train.source).energy
        missing = (found.expected - found.predicted).tolist()
        rest = [replace(f, energy=e) for f, e in zip(frames, missing, strict=True)]
        changes = reference_energies_by_least_squares(rest)
        return energies | {z: energies[z] + change for z, change in changes.items()}
    # Elements that old frames alone have, or that shall stay, are at the level of the others.
    new = reference_energies(frames, method, data.train.isolated_atoms, also=known)
    if method == "isolated_atoms":
        alone = _energies_alone(potential, symbols_of(new))
        new = {z: energies[z] + new[z] - alone[chemical_symbols[z]] for z in new}
    return energies | new


def _energies_alone(potential: Potential, symbols: Sequence[str]) -> dict[str, float]:
    """Return the energy of an atom of each element alone, in eV by symbol."""
    alone = graph_of_atoms_alone([atomic_number(symbol) for symbol in symbols])
    found = copy.deepcopy(potential).double().evaluate(alone).energies
    return dict(zip(symbols, found.tolist(), strict=True))


def _corrected(
    found: Comparison, frames: Sequence[LabelledFrame], changes: Mapping[int, float]
) -> Comparison:
    """Return predictions with c_z added for every atom."""
    sizes = np.array([len(frame.atoms) for frame in frames])
    added = np.array([sum(changes[z] for z in frame.atoms.numbers) for frame in frames])
    energy = replace(found.energy, predicted=found.energy.predicted + added)
    per_atom = replace(found.energy_per_atom, predicted=energy.predicted / sizes)
    return replace(found, energy=energy, energy_per_atom=per_atom)


def _loss(found: Comparison, options: TrainingOptions) -> float:
    """Return the loss of predictions, as that of validation over all frames at once."""
    compared = (found.energy, found.energy_per_atom, found.forces, found.stress)
    errors = (
        torch.zeros(0) if each is None else torch.from_numpy(each.predicted - each.expected)
        for each in compared
    )
    return float(loss(Residuals(*errors), options.validation_function))


def _about(config: TrainingConfig, frozen: Frozen) -> dict[str, Any]:
    if not frozen.names:
        return {}
    return {
        "frozen": list(config.training.freeze),
        "frozen parameters": f"{frozen.n_frozen} of {frozen.n_all}",
    }


def _name_of_method(config: TrainingConfig) -> str:
    method = config.reference_method
    return method if isinstance(method, str) else "the training file"


def _about_model(card: ModelCard, symbols: Sequence[str], potential: Potential) -> str:
    n_parameters = sum(parameter.numel() for parameter in potential.parameters())
    of_all = "" if len(symbols) == len(card.elements) else f" of its {len(card.elements)} elements"
    level = card.training_data.get("level of theory")
    return (
        f"starting from {card.name}{f' ({level})' if level else ''}: {card.architecture}, "
        f"{n_parameters} parameters, for {listing(symbols)}{of_all}"
    )


def _about_frozen(frozen: Frozen) -> str:
    return f"frozen: {frozen.n_frozen} of {frozen.n_all} parameters, in {listing(frozen.names, 4)}"


def _about_references(
    config: TrainingConfig, data: TrainingData, changes: Mapping[int, float]
) -> str:
    method = config.reference_method
    if method == "kept":
        return 'reference energies: kept; "shifted" would fit what another level of theory adds'
    shown = listing([f"{chemical_symbols[z]} {change:+.4f}" for z, change in changes.items()])
    if method == "shifted":
        return (
            f"reference energies: shifted by {shown} eV, fitted to {len(data.train)} training "
            'frames; "kept" would leave them as they are'
        )
    return f"reference energies: by {_name_of_method(config)}, changed by {shown} eV"


def _about_errors(before: Comparison, as_it_is: Comparison, changes: Mapping[int, float]) -> str:
    of_file = ""
    if any(changes.values()):
        mae = 1e3 * as_it_is.energy_per_atom.errors.mae
        of_file = f" ({mae:.2f} with the file's reference energies)"
    return f"before training, MAE on {before.n_frames} validation frames: {_maes(before, of_file)}"


def _maes(found: Comparison, of_file: str = "") -> str:
    """Return mean absolute errors in words; ``of_file`` stands behind those of the energies."""
    per_atom = f"{1e3 * found.energy_per_atom.errors.mae:.2f} meV/atom"
    total = f"{1e3 * found.energy.errors.mae:.1f} meV, " if found.one_size else ""  # as epochs
    parts = [f"energy {total}{per_atom}{of_file}"]
    if found.forces is not None:
        parts.append(f"forces {1e3 * found.forces.errors.mae:.1f} meV/Å")
    if found.stress is not None:
        parts.append(f"stress {1e3 * found.stress.errors.mae:.2f} meV/Å³")
    return ", ".join(parts)


def _notes_on_level(of_old: Comparison, card: ModelCard, source: str) -> list[str]:
    """Return what is odd about the energies of old frames, which are to be at the model's level."""
    mae = of_old.energy_per_atom.errors.mae
    if mae < _ANOTHER_LEVEL:
        return []
    return [
        f"the energies of the replayed frames of {source} are {mae:.3g} eV/atom off those of "
        f"'{card.name}', which start_from names (mean over {of_old.n_frames} set aside): they seem "
        "to be of another level of theory or in another unit, and are learned as they are; "
        "[replay] is for frames at the model's own level."
    ]
