"""A compiled package for one rank of a host, as Python runs it.

Hosts load the same file from C++ (torch's ``AOTIModelPackageLoader``, with the C++ library loaded
before it). It is no engine: an engine runs a model by itself, and this one needs the other ranks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from eqcalc.elements import atomic_number
from eqcalc.engines.engine import Target
from eqcalc.engines.inductor import load_package
from eqcalc.engines.packages import find_exchange_package, why_no_exchange_package
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.build import load_library

__all__ = ["ExchangePackage"]

_FEWEST = 2  # owned atoms and edges: the compiler takes sizes 0 and 1 for constants


class ExchangePackage:
    """A package of which every rank of a host runs one call, at the same time.

    Parameters
    ----------
    path : of the package of the model ``file``

    Raises
    ------
    EngineError : torch cannot load the package, or the C++ library was not built.
    """

    def __init__(self, path: Path, file: ModelFile) -> None:
        # Of the dummies: an element that the model knows, and a length beyond its cutoff.
        self._dummy = torch.tensor([atomic_number(file.card.elements[0])])
        self._reach = 2.0 * file.card.cutoff
        if not load_library():
            raise EngineError(
                "eqcalc's C++ library, by which ranks exchange features, is not there; run eqcalc "
                "compile --exchange again"
            )
        self._package = load_package(path)

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> ExchangePackage:
        """Load the package of a model.

        Raises
        ------
        EngineError : it was not compiled for this; or see above.
        """
        path = find_exchange_package(file, target)
        if path is None:
            raise EngineError(why_no_exchange_package(file, target))
        return cls(path, file)

    def __call__(
        self,
        atomic_numbers: Tensor,
        edge_vectors: Tensor,
        edge_index: Tensor,
        weights: Tensor,
        all_atoms: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_owned,) in eV and the edge gradients (n_edges, 3) in eV/Å.

        The gradients are those of the sum over the atoms of all ranks. The tensors are those of
        :func:`eqcalc.export.compile.compile_exchange`, of any length: dummy atoms are added to a
        rank that has too few, and taken out of the results. The host, which sees them, finds the
        ghosts in the last rows of what it exchanges.
        """
        n_owned, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        if n_owned < _FEWEST or n_edges < _FEWEST:
            pair = torch.tensor([[n_owned + 1, n_owned], [n_owned, n_owned + 1]])
            vectors = edge_vectors.new_zeros((2, 3))
            vectors[:, 0] = self._reach
            senders = edge_index[0] + 2 * (edge_index[0] >= n_owned)
            edge_index = torch.cat([torch.stack([senders, edge_index[1]]), pair], dim=1)
            edge_vectors = torch.cat([edge_vectors, vectors])
            atomic_numbers = torch.cat([atomic_numbers, self._dummy.expand(2)])
            weights = torch.cat([weights, weights.new_zeros(2)])
            all_atoms = torch.cat([all_atoms, all_atoms.new_zeros(2)])
        energies, gradients = self._package(
            [atomic_numbers, edge_vectors, edge_index, weights, all_atoms]
        )
        return energies[:n_owned], gradients[:n_edges]
