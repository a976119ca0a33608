"""A potential: an architecture with reference energies, and its derivatives.

Every force and stress in eqcalc starts here, as ONE gradient with respect to the
edge vectors; :mod:`eqcalc.graph` states how it becomes forces and virial.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional, Union

import torch
from ase.data import atomic_numbers as _number_of
from ase.data import chemical_symbols
from torch import Tensor, nn

from eqcalc.errors import ConfigError, UnsupportedElementError, did_you_mean, listing
from eqcalc.graph import (
    AtomicGraph,
    forces_from_edge_gradients,
    sum_over_structures,
    validate_graph,
    virials_from_edge_gradients,
    volumes,
)

__all__ = ["Evaluation", "Potential", "atomic_number"]

_N_ELEMENTS = 119


class Evaluation(NamedTuple):
    """What a potential says of a graph.

    energy : (n_structures,), eV, float64
    energies : (n_atoms,), eV, float64
    forces : (n_atoms, 3), eV/Å, float64
    stress : (n_structures, 3, 3), eV/Å³, tension positive; None unless every
        structure is periodic in all three directions
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor
    stress: Optional[Tensor]


class Potential(nn.Module):
    """Turn an architecture's atomic energies into energies, forces and stress.

        E_i = scale · architecture_i + reference_energies[Z_i]

    Parameters
    ----------
    architecture : a network with ``atomic_energies``, ``cutoff`` and ``n_hops``
    reference_energies : eV by symbol or atomic number; None means zero for all.
        Where given, elements outside it are refused (and evaluate to NaN in hosts
        that do not check).
    scale : eV; the unit in which the network speaks

    Raises
    ------
    ConfigError : the architecture is no potential or has no cutoff, or a reference
        energy is not a finite number of a known element.
    """

    reference_energies: Tensor
    scale: Tensor

    def __init__(
        self,
        architecture: nn.Module,
        reference_energies: Optional[Mapping[Any, float]] = None,
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        name = type(architecture).__name__
        if not hasattr(architecture, "atomic_energies"):
            raise ConfigError(f"{name} has no atomic_energies: it is not a potential.")
        if getattr(architecture, "cutoff", None) is None:
            raise ConfigError(f"{name} was built without a cutoff; a potential needs one.")
        self.architecture = architecture
        self.cutoff = float(architecture.cutoff)  # type: ignore[arg-type]
        self.n_hops = int(architecture.n_hops)  # type: ignore[arg-type]
        energies = torch.zeros(_N_ELEMENTS, dtype=torch.float64)
        if reference_energies is not None:
            energies.fill_(torch.nan)
            for element, energy in reference_energies.items():
                energies[atomic_number(element)] = float(energy)
                if not torch.isfinite(energies[atomic_number(element)]):
                    raise ConfigError(
                        f"the reference energy of {element} must be finite, found {energy}."
                    )
        self.register_buffer("reference_energies", energies)
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))

    def forward(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return atomic energies and the gradient of the owned atoms' sum.

        Call it with grad enabled. The gradient itself is differentiable in training
        mode, which force training needs.

        Returns
        -------
        energies : (n_atoms,), eV, float64
        edge_gradients : (n_edges, 3), eV/Å; ∂(Σ owned energies)/∂(edge_vectors)
        """
        return self.differentiate(graph, None)

    def differentiate(
        self, graph: AtomicGraph, weights: Optional[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return atomic energies and the gradient of their weighted sum.

        Parameters
        ----------
        weights : (n_atoms,) float64; None means 1 for owned atoms, 0 for others. A tracer
            that would freeze the count ``n_owned`` passes these weights instead.
        """
        edge_vectors = graph.edge_vectors.detach().requires_grad_(True)
        atomic = self.architecture.atomic_energies(  # type: ignore[operator]
            AtomicGraph(
                graph.atomic_numbers,
                graph.edge_index,
                edge_vectors,
                graph.structure_index,
                graph.n_structures,
                graph.n_owned,
                graph.cell,
            )
        )
        energies = atomic.to(torch.float64) * self.scale
        owned = energies[: graph.n_owned] if weights is None else energies * weights
        gradient = torch.autograd.grad(
            [owned.sum()],
            [edge_vectors],
            create_graph=self.training,
            allow_unused=True,  # a graph without edges
        )[0]
        if gradient is None:
            gradient = torch.zeros_like(edge_vectors)
        return energies + self.reference_energies[graph.atomic_numbers], gradient

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Potential":
        # .float() and .half() are meant for the network: float32 would round a reference
        # energy by 1e-4 eV. Buffers still follow to another device.
        kept = {"reference_energies": self.reference_energies, "scale": self.scale}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self

    @torch.jit.unused
    def evaluate(self, graph: AtomicGraph) -> Evaluation:
        """Return energy, energies, forces and stress of every structure.

        Raises
        ------
        GraphError : the graph breaks a convention of :mod:`eqcalc.graph`.
        UnsupportedElementError : an element has no reference energy.
        """
        validate_graph(graph)
        self._refuse_unknown_elements(graph.atomic_numbers)
        with torch.enable_grad():
            energies, gradients = self(graph)
        if not self.training:
            energies = energies.detach()
        n_atoms = graph.atomic_numbers.shape[0]
        owned = energies[: graph.n_owned]
        energy = sum_over_structures(
            owned, graph.structure_index[: graph.n_owned], graph.n_structures
        )
        forces = forces_from_edge_gradients(gradients, graph.edge_index, n_atoms)
        stress = None
        volume = volumes(graph.cell)
        if bool((volume > 0).all()):
            virials = virials_from_edge_gradients(
                gradients, graph.edge_vectors, graph.edge_index, n_atoms
            )
            virial = sum_over_structures(virials, graph.structure_index, graph.n_structures)
            stress = virial / volume[:, None, None]
        return Evaluation(energy, energies, forces, stress)

    def _refuse_unknown_elements(self, atomic_numbers: Tensor) -> None:
        unknown = torch.isnan(self.reference_energies[atomic_numbers])
        if bool(unknown.any()):
            atoms = torch.nonzero(unknown).flatten().tolist()
            found = sorted({chemical_symbols[int(atomic_numbers[k])] for k in atoms})
            known = torch.nonzero(~torch.isnan(self.reference_energies)).flatten().tolist()
            raise UnsupportedElementError(
                f"no reference energy for {', '.join(found)} (atoms {listing(atoms)}); "
                f"this potential knows {', '.join(chemical_symbols[z] for z in known)}."
            )


def atomic_number(element: Union[str, int]) -> int:
    """Return the atomic number of a symbol or number.

    >>> atomic_number("C"), atomic_number(6)
    (6, 6)

    Raises
    ------
    ConfigError : not an element between H and Og.
    """
    if isinstance(element, str) and element in _number_of and element != "X":
        return _number_of[element]
    if isinstance(element, str) or not 1 <= int(element) < _N_ELEMENTS:
        hint = did_you_mean(str(element), chemical_symbols[1:])
        raise ConfigError(f"'{element}' is no element's symbol or atomic number.{hint}")
    return int(element)
