"""Per-atom descriptors of a structure, by the network rebuilt from the model file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Optional

import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.elements import require_elements
from eqcalc.engines import Model
from eqcalc.engines.full_precision import FullPrecision
from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph

__all__ = ["Descriptors"]


class Descriptors:
    """Maps structures to descriptors; the network is rebuilt at the first call, and kept.

    Raises
    ------
    ConfigError : a call with a committee, whose members have nothing in common.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._network: Optional[Callable[[AtomicGraph], Tensor]] = None
        self.begin_after_fork()

    def begin_after_fork(self) -> None:
        """Wait for no thread that a forked process does not have."""
        self._lock = threading.Lock()  # the network takes one call at a time

    @torch.inference_mode(False)
    def __call__(self, atoms: Atoms) -> NDArray:
        """Return (n_atoms, n_features), see :meth:`eqcalc.EqCalculator.get_descriptors`."""
        if len(self._models) > 1:
            raise ConfigError(
                f"a committee has no descriptors: those of its {len(self._models)} members have "
                "nothing in common; build an EqCalculator of one member."
            )
        if not isinstance(atoms, Atoms):
            raise ConfigError(f"get_descriptors expects ase.Atoms, found {type(atoms).__name__}.")
        model = self._models[0]
        graph = build_graph(atoms, model.card.cutoff, dtype=model.dtype, device=model.device)
        require_elements(atoms.numbers, set(model.card.elements), f"model '{model.card.name}'")
        precise = FullPrecision(model.device.type)
        with self._lock, model.using_threads(len(atoms)), precise:
            if self._network is None:
                self._network = _rebuilt(model)
            found = self._network(graph)
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                f"model '{model.card.name}' has NaN or infinity among the descriptors of these "
                f"{len(atoms)} atoms; the structure is far outside what it was trained on."
            )
        return found.to("cpu", torch.float64).numpy()


def _rebuilt(model: Model) -> Callable[[AtomicGraph], Tensor]:
    """Return the network of a model file, which runs without one in everything else."""
    from eqcalc.export.descriptors import DescriptorNetwork

    return DescriptorNetwork(model.file, model.dtype, model.device)
