"""A potential: an architecture with reference energies, and its derivatives.

Every force and stress in eqcalc starts here, as ONE gradient with respect to the
edge vectors; :mod:`eqcalc.derivatives` turns it into forces and stress.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from eqcalc.derivatives import forces_from_edge_gradients, stress_from_edge_gradients, volumes
from eqcalc.elements import N_ELEMENTS, by_atomic_number, require_elements, symbols_of
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph, sum_over_structures, validate_graph
from eqcalc.nn.zbl import ZBL

__all__ = ["Evaluation", "Potential", "evaluation_of"]


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

        E_i = scale · (architecture_i - own[Z_i]) + zbl_i + reference_energies[Z_i]

    where own[Z] is zero, or with ``exact_isolated_atoms`` what the network makes of an atom
    alone: then an atom without neighbours has its reference energy, to rounding.

    Parameters
    ----------
    architecture : a network with ``atomic_energies``, ``cutoff`` and ``n_hops``
    reference_energies : eV by symbol or atomic number; None means zero for all.
        Where given, elements outside it are refused (and evaluate to NaN in hosts
        that do not check).
    scale : eV; the unit in which the network speaks
    exact_isolated_atoms : take out what the network makes of each atom alone, by a second
        call without edges; an exported model has it in its reference energies instead
    zbl : the repulsion of nuclei, added in eV; a network that is trained with it learns the rest

    Raises
    ------
    ConfigError : the architecture is no potential or has no cutoff, a reference energy is not
        a finite number of a known element, the scale is not positive and finite, or the
        repulsion reaches farther than the network.
    """

    reference_energies: Tensor
    scale: Tensor

    def __init__(
        self,
        architecture: nn.Module,
        reference_energies: Optional[Mapping[Any, float]] = None,
        *,
        scale: float = 1.0,
        exact_isolated_atoms: bool = False,
        zbl: Optional[ZBL] = None,
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
        energies = torch.zeros(N_ELEMENTS, dtype=torch.float64)
        if reference_energies is not None:
            energies.fill_(torch.nan)
            for number, energy in by_atomic_number(reference_energies).items():
                energies[number] = energy
                if not math.isfinite(energy):
                    raise ConfigError(
                        f"the reference energy of {symbols_of([number])[0]} must be finite, found "
                        f"{energy}."
                    )
        if not 0.0 < scale < torch.inf:  # zero is a constant energy, whatever the network says
            raise ConfigError(f"the scale of {name} must be positive and finite, found {scale}.")
        if zbl is not None and zbl.cutoff > self.cutoff:
            raise ConfigError(
                f"the cutoff of ZBL must be at most that of {name}, {self.cutoff:g} Å, because "
                f"pairs end there; found {zbl.cutoff:g} Å."
            )
        self.zbl = zbl
        self.exact_isolated_atoms = exact_isolated_atoms
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

    def differentiate(self, graph: AtomicGraph, weights: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        """Return atomic energies and the gradient of their weighted sum.

        Parameters
        ----------
        weights : (n_atoms,) float64; None means 1 for owned atoms, 0 for others. A tracer
            that would freeze the count ``n_owned`` passes these weights instead.
        """
        edge_vectors = graph.edge_vectors.detach().requires_grad_(True)
        moving = AtomicGraph(
            graph.atomic_numbers,
            graph.edge_index,
            edge_vectors,
            graph.structure_index,
            graph.n_structures,
            graph.n_owned,
            graph.cell,
        )
        atomic = self.architecture.atomic_energies(moving)  # type: ignore[operator]
        if self.exact_isolated_atoms:
            atomic = atomic - self.own_energies(graph)
        energies = atomic.to(torch.float64) * self.scale
        if self.zbl is not None:
            energies = energies + self.zbl(moving).to(torch.float64)
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

    def own_energies(self, graph: AtomicGraph) -> Tensor:
        """Return what the network makes of each atom alone (n_atoms,), in its own unit."""
        alone = AtomicGraph(
            graph.atomic_numbers,
            graph.edge_index[:, :0],
            graph.edge_vectors[:0].detach(),
            graph.structure_index,
            graph.n_structures,
            graph.n_owned,
            graph.cell,
        )
        return self.architecture.atomic_energies(alone)  # type: ignore[operator]

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
        UnsupportedElementError : an element has no reference energy, so it was not trained on.
        """
        validate_graph(graph)
        self._require_elements(graph.atomic_numbers)
        with torch.enable_grad():
            energies, gradients = self(graph)
        if not self.training:
            energies = energies.detach()
        return evaluation_of(graph, energies, gradients)

    def _require_elements(self, atomic_numbers: Tensor) -> None:
        if bool(torch.isnan(self.reference_energies[atomic_numbers]).any()):
            known = torch.nonzero(~torch.isnan(self.reference_energies)).flatten().tolist()
            require_elements(atomic_numbers.tolist(), symbols_of(known), "this potential")


def evaluation_of(graph: AtomicGraph, energies: Tensor, gradients: Tensor) -> Evaluation:
    """Return what a call's results come to.

    Parameters
    ----------
    energies : (n_atoms,), eV
    gradients : (n_edges, 3), eV/Å, of the energy by the edge vectors
    """
    n_atoms = graph.atomic_numbers.shape[0]
    structures = graph.structure_index[: graph.n_owned]
    stress = None
    if bool((volumes(graph.cell) > 0).all()):
        stress = stress_from_edge_gradients(gradients, graph)
    return Evaluation(
        sum_over_structures(energies[: graph.n_owned], structures, graph.n_structures),
        energies,
        forces_from_edge_gradients(gradients, graph.edge_index, n_atoms),
        stress,
    )
