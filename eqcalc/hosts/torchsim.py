"""A model for torch-sim: all structures of a batch in one call of the model.

    import torch_sim as ts
    from eqcalc.hosts.torchsim import TorchSimModel

    model = TorchSimModel("painn-ethanol")
    ts.integrate([atoms] * 32, model, integrator=ts.nvt_langevin, n_steps=1000,
                 temperature=300, timestep=0.0005)

It needs torch-sim (the extra ``torchsim``). Neighbour lists are eqcalc's own, one per
structure with a skin, so that edges are those of :class:`eqcalc.EqCalculator`; differences of
positions are taken in float64, whatever the precision of torch-sim's states.

Shapes: n_atoms of all structures, n_systems, as torch-sim calls structures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from eqcalc.blockwise.grouping import on_device
from eqcalc.calculator.committee import shared_elements
from eqcalc.derivatives import forces_from_sums, stress_from_edge_gradients
from eqcalc.devices import resolve_dtype
from eqcalc.elements import require_elements
from eqcalc.engines import Model, load_model
from eqcalc.errors import (
    ConfigError,
    GraphError,
    NonFiniteError,
    import_extra,
    listing,
)
from eqcalc.graph import AtomicGraph, batch_graphs, sum_over_structures
from eqcalc.model_file import Source
from eqcalc.neighbours import SkinList

__all__ = ["TorchSimModel"]

try:
    from torch_sim.models.interface import ModelInterface as _Interface
except ImportError:  # TorchSimModel says so where one is made
    _Interface = torch.nn.Module


class TorchSimModel(_Interface):
    """Energies, forces and stress of torch-sim's states, from a model file.

    Results are in torch-sim's units, eV and Å, and in the state's precision: ``energy``
    (n_systems,), ``forces`` (n_atoms, 3), ``stress`` (n_systems, 3, 3) with ASE's sign, NaN where a
    direction is open. A committee gives its mean, and ``energy_spread`` and ``forces_spread``, the
    standard deviations over its members.

    Memory that runs out is torch's error, which torch-sim's autobatcher looks for: nothing is
    evaluated in blocks here.

    Parameters
    ----------
    model : a shipped model's name, a path, or several of them (a committee: the mean)
    device : "auto", "cpu", "cuda" or "cuda:N"
    dtype : of the network: "float32", "float64" or None for the file's own
    state_dtype : of the states that torch-sim makes: "float64" or "float32". In float32 an energy
        of -4000 eV is rounded to 0.0002 eV, and so is what a run conserves
    engine, threads, trust : see :func:`eqcalc.load_model`
    skin : Å, as of :class:`eqcalc.EqCalculator`
    compute_forces, compute_stress : what the results hold

    Raises
    ------
    MissingDependencyError : torch-sim is not installed, or cannot be imported.
    ModelFileError, DeviceError, EngineError, ConfigError : see :func:`eqcalc.load_model`.
    ConfigError : an empty committee, or one that holds a model twice or whose members differ in
        dtype or share no element.
    """

    def __init__(
        self,
        model: Union[Source, Sequence[Source]],
        *,
        device: str = "auto",
        dtype: Optional[str] = None,
        state_dtype: str = "float64",
        engine: str = "auto",
        threads: Optional[int] = None,
        trust: bool = False,
        skin: float = 0.5,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        _torch_sim()
        super().__init__()
        sources = [model] if isinstance(model, (str, os.PathLike)) else list(model)
        self.members = [
            load_model(
                source, device=device, dtype=dtype, engine=engine, threads=threads, trust=trust
            )
            for source in sources
        ]
        self._elements = shared_elements(self.members)
        self._device = self.members[0].device
        self._dtype = resolve_dtype(state_dtype)
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._skin = skin
        self._lists: list[SkinList] = []
        self._next_list()  # refuses a skin that is none

    @property
    def compute_forces(self) -> bool:
        """Whether results hold forces; torch-sim sets it."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, wanted: bool) -> None:
        self._compute_forces = wanted

    @property
    def compute_stress(self) -> bool:
        """Whether results hold stress; torch-sim sets it."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, wanted: bool) -> None:
        self._compute_stress = wanted

    @torch.inference_mode(False)  # there, nothing can be differentiated
    def forward(self, state: Any) -> dict[str, Tensor]:
        """Return the results of a state, ``torch_sim.SimState`` or a dictionary of its tensors.

        Raises
        ------
        ConfigError : the state is on another device.
        GraphError : NaN positions, coincident atoms, a cell without volume; the message begins
            with the number of the system.
        UnsupportedElementError : an element that a model was not trained on.
        NonFiniteError : a model returned NaN or infinity.
        """
        if isinstance(state, Mapping):
            masses = torch.ones_like(state["positions"][:, 0])
            state = _torch_sim().SimState(**{"masses": masses, **state})
        if state.positions.device.type != self._device.type:
            raise ConfigError(
                f"the state is on {state.positions.device}, the model on {self._device}; "
                "make both with one device."
            )
        graph = on_device(self._graph(state), self._device)
        members = [self._results(member, graph) for member in self.members]
        results = _combined(members)
        like = state.positions
        return {name: value.to(like.device, like.dtype) for name, value in results.items()}

    def _graph(self, state: Any) -> AtomicGraph:
        """Return the graph of all systems, on the CPU.

        Raises
        ------
        GraphError, UnsupportedElementError : see :meth:`forward`.
        """
        positions, numbers = _array(state.positions), _array(state.atomic_numbers)
        cells, pbc = _array(state.row_vector_cell), np.broadcast_to(_array(state.pbc), 3)
        counts = np.bincount(_array(state.system_idx), minlength=len(cells))
        ends = np.cumsum(counts)
        graphs = []
        for k, (end, count) in enumerate(zip(ends, counts, strict=True)):
            here = slice(end - count, end)
            atoms = Atoms(numbers[here], positions[here], cell=cells[k], pbc=pbc)
            if k == len(self._lists):
                self._next_list()
            name = f"model '{self.members[0].card.name}'"
            require_elements(atoms.numbers, self._elements, name, where=f"system {k}")
            try:
                graphs.append(self._lists[k].graph(atoms))
            except GraphError as error:
                raise GraphError(f"system {k}: {error}") from error
        return batch_graphs(graphs)

    def _next_list(self) -> None:
        """Add a neighbour list for one more system."""
        # A member with a shorter cutoff is not disturbed by longer edges: they have no effect.
        cutoff = max(member.card.cutoff for member in self.members)
        self._lists.append(SkinList(cutoff, self._skin, dtype=self.members[0].dtype))

    def _results(self, member: Model, graph: AtomicGraph) -> dict[str, Tensor]:
        """Return what one model says, in float64."""
        energies, gradients = member(graph)
        results = {
            "energy": sum_over_structures(energies, graph.structure_index, graph.n_structures)
        }
        n_atoms = graph.atomic_numbers.shape[0]
        forces = forces_from_sums(gradients, graph.edge_index, n_atoms)  # (n_atoms, 3)
        squares = sum_over_structures(
            forces.square().sum(dim=1), graph.structure_index, graph.n_structures
        )
        finite = torch.isfinite(results["energy"] + squares)  # (n_systems,)
        if not bool(finite.all()):
            broken = torch.nonzero(~finite).squeeze(1).tolist()
            raise NonFiniteError(
                f"model '{member.card.name}' returned NaN or infinity for the systems "
                f"{listing(broken)}; they are far outside what it was trained on. Start from "
                "structures relaxed with this model, or take a shorter timestep."
            )
        if self._compute_forces:
            results["forces"] = forces
        if self._compute_stress:
            results["stress"] = stress_from_edge_gradients(gradients, graph)
        return {name: value.detach() for name, value in results.items()}


def _torch_sim() -> Any:
    """Import torch-sim.

    Raises
    ------
    MissingDependencyError : it is not installed, or cannot be imported.
    """
    return import_extra("torch_sim", "torchsim", "a model for torch-sim")


def _combined(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a model's results, or the mean and the spread of a committee's."""
    if len(members) == 1:
        return members[0]
    stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    results = {name: values.mean(dim=0) for name, values in stacked.items()}
    for name in ("energy", "forces"):
        if name in stacked:  # n_members - 1 degrees of freedom, as EqCalculator has it
            results[f"{name}_spread"] = stacked[name].std(dim=0, correction=1)
    return results


def _array(values: Any) -> np.ndarray:
    """Return a tensor as an array; torch-sim's ``pbc`` may be a bool."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
