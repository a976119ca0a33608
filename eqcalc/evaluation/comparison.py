"""Errors of a model on a data set: what it predicts beside what was computed.

The exported file is what is judged, through an engine, as a simulation runs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.blockwise import Blockwise
from eqcalc.blockwise.blocks import box_coordinates, side_by_side
from eqcalc.blockwise.grouping import collect, grouped, largest_group, on_device, size_of
from eqcalc.data.batches import LabelledGraph, collate, labelled_graphs
from eqcalc.data.frames import LabelledFrame
from eqcalc.elements import require_elements
from eqcalc.engines import Model
from eqcalc.errors import ConfigError, DataError, DataWarning, NotEnoughMemoryError
from eqcalc.graph import sum_over_structures

__all__ = ["Comparison", "Errors", "Quantity", "comparison_of", "errors_of", "evaluate"]


@dataclass(frozen=True)
class Errors:
    """Mean absolute and root mean square error over all components."""

    mae: float
    rmse: float


def errors_of(differences: NDArray) -> Errors:
    """Return both errors of predictions minus labels, of any shape."""
    return Errors(
        mae=float(np.abs(differences).mean()),
        rmse=float(np.sqrt(np.square(differences).mean())),
    )


@dataclass(frozen=True)
class Quantity:
    """Computed labels and predictions of one quantity, flat arrays of equal length."""

    name: str
    unit: str
    expected: NDArray
    predicted: NDArray

    @property
    def errors(self) -> Errors:
        """The errors in the quantity's unit."""
        return errors_of(self.predicted - self.expected)

    @property
    def offset(self) -> tuple[float, float]:
        """Mean of prediction minus label, and the standard deviation around it."""
        difference = self.predicted - self.expected
        return float(difference.mean()), float(difference.std())


@dataclass(frozen=True)
class Comparison:
    """Predictions beside labels: energy (eV), energy per atom (eV/atom), forces (eV/Å),
    stress (eV/Å³); the last two only where the data set has them.

    ``one_size`` : all frames have as many atoms; else the error of total energies means nothing
    """

    n_frames: int
    energy: Quantity
    energy_per_atom: Quantity
    forces: Optional[Quantity]
    stress: Optional[Quantity]
    one_size: bool = True

    @property
    def meaningful(self) -> list[Quantity]:
        """Those that were compared, without total energies of frames of several sizes."""
        return [each for each in self.quantities if self.one_size or each is not self.energy]

    @property
    def quantities(self) -> list[Quantity]:
        """Those that were compared."""
        all_four = (self.energy, self.energy_per_atom, self.forces, self.stress)
        return [quantity for quantity in all_four if quantity is not None]

    def summary(self) -> dict[str, float]:
        """Return errors with units in their names, in meV: of what is :attr:`meaningful`.

        Keys are such as ``energy_per_atom_mae_mev`` and ``forces_rmse_mev_per_a``.
        """
        suffix = {"eV": "mev", "eV/atom": "mev", "eV/Å": "mev_per_a", "eV/Å³": "mev_per_a3"}
        found = {}
        for quantity in self.meaningful:
            unit = suffix[quantity.unit]
            found[f"{quantity.name}_mae_{unit}"] = round(1e3 * quantity.errors.mae, 4)
            found[f"{quantity.name}_rmse_{unit}"] = round(1e3 * quantity.errors.rmse, 4)
        return found


@torch.inference_mode(False)  # what is made there can never be differentiated
def evaluate(
    model: Model,
    frames: Sequence[LabelledFrame],
    progress: Optional[Callable[[int], None]] = None,
    source: str = "",
    max_edges: Optional[int] = None,
) -> Comparison:
    """Run a model on labelled frames and compare.

    Parameters
    ----------
    progress : called with the number of frames done
    source : name of the frames' file, for messages
    max_edges : of one model call at most, as in :class:`eqcalc.EqCalculator`: a frame with more
        is evaluated in blocks; None: as many as there is memory for

    Raises
    ------
    DataError : no frames.
    GraphError : a frame has coincident atoms; the message says which.
    UnsupportedElementError : a frame holds an element that the model does not know.
    NotEnoughMemoryError : memory does not suffice for a frame, not even in blocks.
    ConfigError : ``max_edges`` is below 1, or less than the energy of an atom depends on.
    """
    blockwise = Blockwise(max_edges)
    if len(frames) == 0:
        raise DataError("evaluate needs at least one frame, found none.")
    _require_elements(model, frames)
    graphs = _graphs(model, frames, source)
    rows = []
    done = n_edges = 0
    largest = largest_group(max_edges)
    for group in grouped(graphs, lambda labelled: size_of(labelled.graph), largest):
        here = range(done, done + len(group))
        n_edges += sum(labelled.graph.edge_index.shape[1] for labelled in group)
        try:
            rows.append(_evaluate_batch(model, blockwise, group, [frames[k].atoms for k in here]))
        except (ConfigError, NotEnoughMemoryError) as error:
            raise type(error)(f"{_named(here, source)}: {error}") from error
        done = here.stop
        if progress is not None:
            progress(done)
    if n_edges == 0 and any(len(frame.atoms) > 1 for frame in frames):
        warnings.warn(
            f"no atom of {source or 'these frames'} has a neighbour within the cutoff of "
            f"{model.card.cutoff:g} Å: the model saw atoms alone. Are the positions in another "
            "unit (length_unit)?",
            DataWarning,
            stacklevel=2,
        )
    return comparison_of(
        len(frames), [np.concatenate(column) for column in zip(*rows, strict=True)]
    )


def _graphs(model: Model, frames: Sequence[LabelledFrame], source: str) -> Iterator[LabelledGraph]:
    for index, frame in enumerate(frames):
        yield from labelled_graphs(
            [frame], model.card.cutoff, model.dtype, first=index, source=source
        )


def _evaluate_batch(
    model: Model, blockwise: Blockwise, group: list[LabelledGraph], structures: list[Atoms]
) -> tuple[NDArray, ...]:
    def coordinates() -> NDArray:
        return side_by_side([box_coordinates(atoms) for atoms in structures])

    batch = collate(group)
    graph = batch.graph
    on_model = on_device(graph, model.device)
    found = collect(on_model, *blockwise(model, on_model, coordinates))
    energy = sum_over_structures(
        torch.from_numpy(found.energies), graph.structure_index, graph.n_structures
    )
    sizes = torch.bincount(graph.structure_index, minlength=graph.n_structures)
    labels = (batch.energy.numpy(), batch.forces.numpy(), batch.stress.numpy())
    return (
        energy.numpy(),
        labels[0],
        sizes.numpy(),
        found.forces,
        labels[1],
        found.stress,
        labels[2],
    )


def _named(numbers: range, source: str) -> str:
    """Return what a message calls some neighbouring frames."""
    first, last = numbers[0], numbers[-1]
    frames = f"frame {first}" if first == last else f"frames {first} to {last}"
    return frames + (f" of {source}" if source else "")


def comparison_of(n_frames: int, columns: Sequence[NDArray]) -> Comparison:
    """Return what predictions and labels come to.

    Parameters
    ----------
    columns : energies and their labels (n_frames,), numbers of atoms (n_frames,), forces and their
        labels (n_atoms, 3), stresses and their labels (n_frames, 6); NaN where there is no label
    """
    energy, energy_label, sizes, forces, forces_label, stress, stress_label = columns
    return Comparison(
        n_frames=n_frames,
        energy=Quantity("energy", "eV", energy_label, energy),
        energy_per_atom=Quantity(
            "energy_per_atom", "eV/atom", energy_label / sizes, energy / sizes
        ),
        forces=_labelled("forces", "eV/Å", forces_label, forces),
        stress=_labelled("stress", "eV/Å³", stress_label, stress),
        one_size=bool((sizes == sizes[0]).all()),
    )


def _labelled(name: str, unit: str, labels: NDArray, predicted: NDArray) -> Optional[Quantity]:
    """Keep what has a label; predictions that are NaN beside a label stay and show."""
    has_label = np.isfinite(labels)
    if not has_label.any():
        return None
    return Quantity(name, unit, labels[has_label], predicted[has_label])


def _require_elements(model: Model, frames: Sequence[LabelledFrame]) -> None:
    for index, frame in enumerate(frames):
        require_elements(
            frame.atoms.numbers,
            model.card.elements,
            f"model '{model.card.name}'",
            where=str(frame.origin or f"frame {index}"),
        )
