"""The engine that runs a package compiled ahead of time for this machine."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.packages import find_package, make_package, why_no_package
from eqcalc.errors import CacheError, EngineError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile
from eqcalc.native.build import load_library
from eqcalc.native.private_folder import is_noexec
from eqcalc.triton_kernels.operators import register_operators

__all__ = ["CompiledPackage", "InductorEngine", "load_package"]

Call = Callable[[list[Tensor]], list[Tensor]]

_loaded: dict[str, Call] = {}

_FEWEST = 2  # atoms and edges: the compiler takes sizes 0 and 1 for constants


class CompiledPackage:
    """A package that torch has loaded, for any number of atoms and edges.

    Parameters
    ----------
    reach : Å; beyond every network's cutoff

    Raises
    ------
    EngineError : torch cannot load the package.
    """

    def __init__(self, path: Path, target: Target, *, reach: float) -> None:
        self.device, self.dtype = device, dtype = target
        self._reach = reach
        has_kernels = load_library()
        if not has_kernels and device.type == "cpu" and dtype == torch.float32:
            raise EngineError(
                "eqcalc's C++ library, which the package calls, is not there; run eqcalc compile "
                "again"
            )
        if device.type == "cuda":
            register_operators()  # a float32 package calls them, if they were there
        self._package = load_package(path, device)
        # One tuple, replaced as a whole: several threads may use this engine.
        self._weights = (0, torch.ones(0, dtype=torch.float64, device=device))

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å."""
        atomic_numbers, edge_index, edge_vectors = graph[:3]
        n_atoms, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        is_small = n_atoms < _FEWEST or n_edges < _FEWEST
        if is_small:
            atomic_numbers, edge_vectors, edge_index = self._padded(
                atomic_numbers, edge_vectors, edge_index
            )
        weights = self._weights_of(atomic_numbers.shape[0], graph.n_owned)
        energies, gradients = self._package([atomic_numbers, edge_vectors, edge_index, weights])
        if is_small:  # atoms and edges come last; the members of a committee before them
            return energies[..., :n_atoms], gradients[..., :n_edges, :]
        return energies, gradients

    def run(self, graph: AtomicGraph, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Run the package on two atoms and two edges at least."""
        energies, gradients = self._package(
            [graph.atomic_numbers, graph.edge_vectors, graph.edge_index, weights]
        )
        return energies, gradients

    def _padded(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add two atoms, and two edges between them that are longer than the cutoff."""
        n = atomic_numbers.shape[0]
        pair = torch.tensor([[n, n + 1], [n + 1, n]], device=edge_index.device)
        vectors = edge_vectors.new_zeros((2, 3))
        vectors[:, 0] = self._reach
        return (
            torch.cat([atomic_numbers, atomic_numbers[:1].expand(2)]),
            torch.cat([edge_vectors, vectors]),
            torch.cat([edge_index, pair], dim=1),
        )

    def _weights_of(self, n_atoms: int, n_owned: int) -> Tensor:
        """Return the weights; in a simulation they are those of the step before."""
        kept, weights = self._weights
        if weights.shape[0] != n_atoms or kept != n_owned:
            weights = torch.ones(n_atoms, dtype=torch.float64, device=self.device)
            weights[n_owned:] = 0.0
            self._weights = n_owned, weights
        return weights


class InductorEngine(CompiledPackage, Engine):
    """Run the compiled package of a model."""

    name = "inductor"
    device_types = ("cpu", "cuda")
    takes_weights = True

    @classmethod
    def can_run(cls, file: ModelFile, target: Target) -> Optional[str]:
        """Return why not: another kind of device, or the model was not compiled for it."""
        why = super().can_run(file, target)
        try:
            if why is None and find_package([file], target) is None:
                why = why_no_package([file], target)
        except CacheError as error:
            why = str(error)
        return why

    @classmethod
    def prepare(cls, file: ModelFile, target: Target) -> None:
        """Compile the model, unless that is done."""
        make_package([file], target)

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> InductorEngine:
        """Load the package.

        Raises
        ------
        EngineError : the model was not compiled for this device and precision, or torch
            cannot load the package.
        """
        path = find_package([file], target)
        if path is None:
            raise EngineError(super().can_run(file, target) or why_no_package([file], target))
        return cls(path, target, reach=2.0 * file.card.cutoff)


def load_package(path: Path, device: torch.device) -> Call:
    """Return a package, loaded once: what it maps into the process stays there for ever.

    Raises
    ------
    EngineError : torch cannot load it.
    """
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    key = f"{checksum} {device}"
    if key not in _loaded:
        unpacked_in = tempfile.gettempdir()
        if is_noexec(Path(unpacked_in)):  # torch would fail there, and leave its files behind
            raise EngineError(
                f"packages are unpacked in '{unpacked_in}', whose file system is mounted noexec; "
                "set TMPDIR to a folder from which code can be run"
            )
        try:
            _loaded[key] = _loader(str(path), device).run
        except (RuntimeError, TypeError, AttributeError) as error:  # the latter of an older torch
            raise EngineError(
                f"torch {torch.__version__} cannot load the compiled package '{path}': "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    return _loaded[key]


def _loader(path: str, device: torch.device) -> Any:
    """Return torch's loader of a package.

    Not ``torch._inductor.aoti_load_package``: that imports the compiler, which takes seconds and
    builds and loads libraries of its own. The loader unpacks into a new folder of mode 0700
    among the temporary ones, and removes it at the end of the process.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader
    if device.type == "cuda":
        # Without threads of its own the package also takes part in the capture of a CUDA graph.
        return loader(path, "model", True, 1, -1 if device.index is None else device.index)
    for options in ((False, 1, -1), (False, 1), ()):  # of torch 2.8, 2.7 and 2.6
        with suppress(TypeError):
            return loader(path, "model", *options)
    raise TypeError("its loader takes other arguments")
