"""What an engine is: one way to run a model file, in one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Optional

import torch
from torch import Tensor

from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile

__all__ = ["Engine", "Target"]


class Target(NamedTuple):
    """Where a model runs and in which precision.

    >>> print(Target(torch.device("cpu"), torch.float32))
    cpu in float32
    """

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The name of the dtype: "float32" or "float64"."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"


class Engine(ABC):
    """One way to run a model file.

    A new engine is a file with a subclass, and its name in
    :data:`eqcalc.engines.loading.ENGINES`: :meth:`can_run` says where it makes sense,
    :meth:`prepare` makes what must be made once on a machine, :meth:`load` starts it,
    :meth:`report` says what runs. What it returns is proven by the model's passport before
    anyone uses it.

    Attributes
    ----------
    name : what a user writes in ``engine="..."``
    device_types : "cpu", "cuda"; the kinds of devices on which it can run
    takes_weights : whether owned atoms are a tensor of weights, see :meth:`run`
    device, dtype : of this one's tensors
    """

    name: ClassVar[str]
    device_types: ClassVar[tuple[str, ...]]
    takes_weights: ClassVar[bool] = False

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def can_run(cls, file: ModelFile, target: Target) -> Optional[str]:
        """Return why this engine cannot run a model here as things are; None if it can."""
        if target.device.type not in cls.device_types:
            kinds = " or ".join(kind.upper() for kind in cls.device_types)
            return f"{cls.name} needs a {kinds} device, this is '{target.device}'"
        return None

    def give_up_memory(self) -> bool:
        """Let go of what takes memory to make calls faster; return whether there was any."""
        return False

    @classmethod  # noqa: B027  (most engines need nothing)
    def prepare(cls, file: ModelFile, target: Target) -> None:
        """Make what this engine needs once on a machine, such as a compiled package.

        Raises
        ------
        EngineError : it cannot be made.
        CacheError : there is no place to keep it.
        """

    @classmethod
    @abstractmethod
    def load(cls, file: ModelFile, target: Target) -> Engine:
        """Return an engine that runs the model.

        Raises
        ------
        EngineError : this engine cannot run it here; another one can.
        ModelFileError : the file itself is at fault.
        """

    @abstractmethod
    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å.

        The gradient is that of the sum of the owned atoms' energies.

        Parameters
        ----------
        graph : on the engine's device and in its dtype
        """

    def run(self, graph: AtomicGraph, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Do what a call does, on tensors of fixed sizes that stay in place.

        Parameters
        ----------
        weights : (n_atoms,) float64; 1 for owned atoms, 0 for others. An engine with
            ``takes_weights`` takes them in place of ``graph.n_owned``; others ignore them.
        """
        return self(graph)

    def energies(self, graph: AtomicGraph) -> Optional[Tensor]:
        """Return what the network makes of all atoms (n_atoms,), ready to be differentiated.

        For timing: the scale and the reference energies are not in it. None where one graph
        makes energies and gradient at once.
        """
        return None

    def report(self) -> str:
        """Return what runs, in a few words."""
        return self.name

    @property
    def plain(self) -> Engine:
        """This engine without replays of what was captured: it takes its memory at each call."""
        return self

    @property
    def not_used(self) -> Mapping[str, str]:
        """Faster ways to do the same that this one looked for, and why it does without."""
        return {}
