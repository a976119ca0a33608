"""EqCalculator: a trained model as an ASE calculator.

from ase.io import read
from eqcalc import EqCalculator

atoms = read("ethanol.xyz")
atoms.calc = EqCalculator("painn-ethanol")
atoms.get_potential_energy()
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union
from weakref import WeakSet

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.blockwise import Blockwise, MemoryForecast
from eqcalc.blockwise.blocks import box_coordinates
from eqcalc.blockwise.grouping import (
    MAX_EDGES,
    check_max_edges,
    grouped,
    largest_group,
    size_of,
)
from eqcalc.calculator.atom_order import AtomOrder
from eqcalc.calculator.committee import engine_facts, engine_report, shared_elements
from eqcalc.calculator.descriptors import Descriptors
from eqcalc.calculator.exact_cache import ExactCache, State
from eqcalc.calculator.groups import evaluate_group, named_graphs
from eqcalc.calculator.hessian import hessian
from eqcalc.calculator.results import (
    SPREADS,
    MemberResult,
    combined,
    refuse_not_finite,
)
from eqcalc.calculator.stress import stress_results
from eqcalc.derivatives import resolve_reduction
from eqcalc.device_use import evaluating_on, is_out_of_memory
from eqcalc.elements import require_elements
from eqcalc.engines import CommitteeEngine, Model, load_committee, load_model, reload_model
from eqcalc.engines.full_precision import FullPrecision
from eqcalc.errors import (
    ConfigError,
    GraphError,
    listing,
)
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelCard, Source
from eqcalc.model_file.passport import Tolerance, read_passport
from eqcalc.neighbours import SkinList
from eqcalc.threads import using_threads

__all__ = ["EqCalculator"]

_OF_MODELS = ("device", "dtype", "engine", "threads")  # of the arguments

_alive: WeakSet[EqCalculator] = WeakSet()
"""Calculators of this process, which a forked one may have to begin anew."""

_PERIODIC = bytes([1, 1, 1])  # as State keeps pbc

_NOT_PICKLED = frozenset(
    {
        "_arguments",
        "_blockwise",
        "_checked_numbers",
        "_descriptors",
        "_elements",
        "_lock",
        "_most_together",
        "_order",
        "_sum_forces",
        "_together",
        "_why_together",
        "get_spin_polarized",  # a method that ASE binds
        "models",
        "neighbours",
    }
)
"""Attributes that are made of the arguments where a pickle is read."""


class EqCalculator(ExactCache):
    """Energies, forces and stress of a model file.

    Results, in eV and Å: ``energy``, ``free_energy`` (the same), ``energies``,
    ``forces``, and ``stress`` and ``stresses`` where all three directions are
    periodic (elsewhere ASE's PropertyNotImplementedError). ``stresses`` sum to
    ``stress``. Of a committee these are means over its members, and beside them stand the
    spreads ``energy_spread`` (eV), ``energies_spread`` (n_atoms,), ``forces_spread`` (n_atoms, 3)
    in eV/Å, and where there is a stress ``stress_spread`` (6,) and ``stresses_spread``
    (n_atoms, 6) in eV/Å³: sample standard deviations of each component, with n_members - 1
    degrees of freedom. ``get_property("forces_spread", atoms)`` computes where it must, as ASE
    does; ``results`` has those of the last structure.

    Parameters
    ----------
    model : a shipped model's name, a path, or several of them (a committee: the mean)
    device : "auto", "cpu", "cuda" or "cuda:N"
    dtype : "float32", "float64" or None for the file's own; forces are always float64
    engine : "auto", "cudagraph", "inductor", "triton" or "torchscript": see
            :func:`eqcalc.load_model`
    skin : Å; the neighbour list is kept while it provably misses no edge; 0 builds
        a fresh one at every call, "auto" looks for the skin that costs least while it runs.
        Results do not depend on it.
    max_edges : of one model call; larger structures are evaluated in blocks, to the same
        results. None: as many as memory is found for
    threads : of a model call on a CPU. None: one per hundred atoms, at most as many as torch
        has (``torch.set_num_threads``, ``OMP_NUM_THREADS``)
    reduction : "torch", or "torch-scatter" (the extra ``eqcalc[scatter]``), whose sums of
        forces are the same in every bit at every run on a GPU too
    trust : run whatever program the files hold, see :func:`eqcalc.load_model`

    Raises
    ------
    MissingDependencyError : torch-scatter is asked for and cannot be imported.
    ModelFileError, DeviceError, ConfigError : see :func:`eqcalc.load_model`.
    ConfigError : an empty committee, or one that holds a model twice or whose members differ in
        dtype or share no element; ``max_edges`` or ``threads`` below 1.
    """

    name = "eqcalc"
    implemented_properties = [  # noqa: RUF012  (ASE's own pattern)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "stresses",
    ]
    default_parameters: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        model: Union[Source, Sequence[Source]],
        *,
        device: str = "auto",
        dtype: Optional[str] = None,
        engine: str = "auto",
        skin: Union[float, str] = 0.5,
        max_edges: Optional[int] = None,
        threads: Optional[int] = None,
        reduction: str = "torch",
        trust: bool = False,
    ) -> None:
        super().__init__()
        alone = isinstance(model, (str, bytes, os.PathLike)) or not isinstance(model, Iterable)
        sources: list[Source] = [model] if alone else list(model)  # type: ignore
        check_max_edges(max_edges)
        self._arguments: dict[str, Any] = {
            "model": model if alone else sources,
            "device": str(device),  # ASE's files take no torch.device
            "dtype": dtype,
            "engine": engine,
            "skin": skin,
            "max_edges": max_edges,
            "threads": threads,
            "reduction": reduction,
            "trust": trust or None,  # said where it was asked for
        }
        options: dict[str, Any] = {name: self._arguments[name] for name in _OF_MODELS}
        self._use([load_model(source, **options, trust=trust) for source in sources])

    def _use(self, models: list[Model]) -> None:
        """Take loaded models, which other calculators may use too."""
        self._sum_forces = resolve_reduction(self._arguments["reduction"])
        self.models = models
        self._elements = shared_elements(models)
        self._descriptors = Descriptors(models)
        self._together: Optional[CommitteeEngine] = None
        self._why_together = ""
        if len(self.models) > 1:
            self._together, self._why_together = load_committee(
                self.models, self._arguments["engine"]
            )
        # One pass pays for small structures; large ones may have to be evaluated in blocks.
        self._most_together = largest_group(self._arguments["max_edges"])
        self._begin()

    def _begin(self) -> None:
        """Make what a calculator shares with no other one, not with its copies either."""
        self._lock = threading.RLock()
        _alive.add(self)
        self._blockwise = [Blockwise(self._arguments["max_edges"]) for _ in self.models]
        # A member with a shorter cutoff is not disturbed by longer edges: they have no effect.
        self.neighbours = SkinList(
            max(member.card.cutoff for member in self.models),
            self._arguments["skin"],
            dtype=self.models[0].dtype,
            device=self.models[0].device,
        )
        self._order = AtomOrder()
        self._checked_numbers: Optional[bytes] = None

    @property
    def card(self) -> ModelCard:
        """The card of the model (of a committee: of its first member)."""
        return self.models[0].card

    def engine_report(self) -> str:
        """Return which engine runs each model, and why no faster one does.

        The last line says whether a committee runs in one pass.
        """
        return engine_report(self.models, self._why_together)

    def engine_facts(self, n_atoms: int) -> dict[str, Any]:
        """Return what runs a structure of so many atoms: engine, device, precision, threads.

        ``threads`` is None on a GPU; ``not_used`` says why faster engines do not run. Of a
        committee: of every member, with ``together`` for the pass of them all.
        """
        return engine_facts(self.models, self._why_together, n_atoms)

    @property
    def atom_order(self) -> NDArray | None:
        """The order (n_atoms,) in which atoms of the present structure are summed, or None.

        It is chosen for the first positions. The same order gives the same bits.
        """
        return self._order.order

    def reference(self) -> EqCalculator:
        """Return a calculator of the same models that goes the longest way, to compare with.

        In float64, on TorchScript, with a fresh neighbour list at every call.

        Raises
        ------
        ModelFileError : a path holds another model by now, or none.
        """
        exact = {"dtype": "float64", "engine": "torchscript", "skin": 0.0}
        return _restored(EqCalculator, self._arguments | exact, self._files())

    def tolerance(self) -> Tolerance:
        """Return how far from the reference the passport lets results be, in this precision."""
        tolerances = read_passport(self.models[0].file).tolerances
        return tolerances[str(self.models[0].dtype).removeprefix("torch.")]

    def keep_atom_order(self, atoms: Atoms, order: NDArray | None) -> None:
        """Sum the atoms of a structure in the order of an earlier run (:attr:`atom_order`)."""
        self._order.keep(atoms.numbers, order)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the arguments that ASE writes into trajectories and databases."""
        arguments = dict(self._arguments)
        model = arguments["model"]
        if isinstance(model, (str, os.PathLike)):
            arguments["model"] = str(model)
        else:
            arguments["model"] = [str(source) for source in model]
        return {key: value for key, value in arguments.items() if value is not None}

    def __copy__(self) -> EqCalculator:
        """Return a calculator with the same models in memory and the same results."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.results = copy.deepcopy(self.results)
        twin._begin()
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> EqCalculator:
        return self.__copy__()

    def __reduce__(self) -> Any:
        # The results, and whatever a subclass or the user keeps in it.
        state = {name: value for name, value in vars(self).items() if name not in _NOT_PICKLED}
        return _restored, (type(self), self._arguments, self._files()), state

    def _files(self) -> list[tuple[str, str]]:
        """Return the source and the checksum of every member.

        Where they are read, the path may hold another model, and another folder be the present
        one: the checksum says which model was meant.
        """
        return [(m.file.lasting_source, m.file.sha256) for m in self.models]

    def _begin_after_fork(self) -> None:
        """Start anew where a thread that this process does not have was calculating."""
        self._descriptors.begin_after_fork()
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return
        self.reset()
        self._begin()

    def get_property(
        self, name: str, atoms: Optional[Atoms] = None, allow_calculation: bool = True
    ) -> Any:
        """Return a result, as ASE asks for it, or a committee's spread; one thread at a time."""
        with self._lock:  # else another thread's structure could come between asking and reading
            if not name.endswith("_spread"):
                return super().get_property(name, atoms, allow_calculation)
            self._require_spread(name)
            mean = super().get_property(name.removesuffix("_spread"), atoms, allow_calculation)
            return None if mean is None else copy.copy(self.results[name])

    def _require_spread(self, name: str) -> None:
        if name.removesuffix("_spread") not in SPREADS:
            names = listing([f"{each}_spread" for each in SPREADS])
            raise PropertyNotImplementedError(f"there is no '{name}'; spreads are {names}.")
        if len(self.models) < 2:
            raise PropertyNotImplementedError(
                f"'{name}' is that of a committee, and this calculator has one model; pass several "
                "to EqCalculator."
            )

    def set(self, **options: Any) -> dict[str, Any]:
        """Refuse every option: ASE's own method would store it and change nothing.

        Raises
        ------
        ConfigError : an option was given.
        """
        if options:
            raise ConfigError(
                f"the options of EqCalculator are fixed when it is built, found "
                f"set({', '.join(options)}); build another EqCalculator."
            )
        return {}

    def calculate(
        self,
        atoms: Optional[Atoms] = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute everything that one gradient gives; ASE calls this.

        Raises
        ------
        GraphError : zero atoms, NaN positions, coincident atoms, a cell without volume.
        UnsupportedElementError : an element that a model was not trained on.
        NonFiniteError : a model returned NaN or infinity.
        NotEnoughMemoryError : memory does not suffice, not even for small blocks.
        DeviceError : the GPU does not answer any more, or this process was forked from one that
            had used it.
        ConfigError : an atom's energy depends on more than ``max_edges`` edges.
        PropertyNotImplementedError : stress where a direction is open.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ConfigError("calculate needs atoms; none were given, and none before.")
        if torch.is_inference_mode_enabled():  # there, nothing can be differentiated
            with torch.inference_mode(False):
                self.calculate(atoms, properties, system_changes)
            return
        device = self.neighbours.device
        with (
            using_threads(device, len(atoms), self._arguments.get("threads")),
            evaluating_on(device),
        ):
            self._calculate(atoms, properties)

    def _calculate(self, atoms: Atoms, properties: Sequence[str]) -> None:
        state = State.of(atoms)
        periodic = state.pbc == _PERIODIC
        if not periodic:
            for name in ("stress", "stresses"):
                if name in properties:
                    raise PropertyNotImplementedError(
                        f"'{name}' is defined where all three directions are periodic; "
                        f"this structure has pbc={atoms.pbc.tolist()}."
                    )
        self.results = {}
        self._last = None  # until this succeeds, nothing is known of any structure
        ordered, graph = self.ordered_graph(atoms)
        self._require_elements(atoms, state.numbers)
        members, gradients = [], []
        for model, (energies, edge_gradients) in zip(
            self.models, self._outputs(graph, ordered), strict=True
        ):
            members.append(self._member(model, graph, energies, edge_gradients))
            gradients.append(edge_gradients)
        results = combined(members)
        if periodic:
            results |= stress_results(
                graph,
                atoms.get_volume(),
                gradients,
                per_atom="stresses" in properties,
                restored=self._order.restored,
            )
        self.results = results
        self._last = state

    def ordered_graph(self, atoms: Atoms) -> tuple[Atoms, AtomicGraph]:
        """Return the structure as the model sees it, and its graph.

        Its atoms are in an order of their own where that makes the model faster.

        Raises
        ------
        GraphError : as :meth:`calculate` does.
        """
        if self.models[0].device.type != "cpu":  # elsewhere nothing has been measured
            self._order.keep(atoms.numbers, None)  # an order that a run began with on a CPU
            return atoms, self._graph_on_gpu(atoms)
        ordered = self._order.ordered(atoms)
        try:
            return ordered, self.neighbours.graph(ordered)
        except GraphError:
            self.neighbours.graph(atoms)  # refuses it by the atoms' own numbers
            raise

    def _graph_on_gpu(self, atoms: Atoms) -> AtomicGraph:
        """Return the graph; where memory runs out, engines let go of what they keep of it."""
        try:
            return self.neighbours.graph(atoms)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            given_up = [model.engine.give_up_memory() for model in self.models]
            if not any(given_up):
                raise
        # Not inside the handler: there, the traceback still holds what the call had made.
        return self.neighbours.graph(atoms)

    @torch.inference_mode(False)
    def memory_forecast(self, atoms: Atoms) -> Optional[MemoryForecast]:
        """Return what memory an evaluation takes, and in how many blocks it is made.

        None for a structure that fits any memory (20 000 edges), and where the system does
        not tell what a call needs. Of a committee: of its neediest member.

        Raises
        ------
        NotEnoughMemoryError, DeviceError, ConfigError, GraphError, UnsupportedElementError : as
            :meth:`calculate` does.
        """
        with self._lock, evaluating_on(self.neighbours.device):
            ordered, graph = self.ordered_graph(atoms)
            self._require_elements(atoms, atoms.numbers.tobytes())
            forecasts = [
                blockwise.forecast(model, graph, lambda: box_coordinates(ordered))
                for model, blockwise in zip(self.models, self._blockwise, strict=True)
            ]
        known = [forecast for forecast in forecasts if forecast is not None]
        return max(known, key=lambda forecast: forecast.needed, default=None)

    @torch.inference_mode(False)
    def calculate_many(
        self,
        structures: Iterable[Atoms],
        *,
        max_edges: Optional[int] = None,
        names: Optional[Sequence[str]] = None,
    ) -> list[dict[str, Any]]:
        """Return the results of every structure, from few calls of the model.

        The results are those of one :meth:`calculate` per structure, to rounding: energy,
        free_energy, energies, forces; stress where all three directions are periodic; the
        spreads of a committee. Sizes, elements and boundary conditions may differ. Neither
        the structures nor the calculator's present results change.

        Parameters
        ----------
        max_edges : neighbouring structures are joined up to so many edges (or atoms, where
            there are more of them), 20 000 by default and never more than the calculator's
            ``max_edges``; a larger structure goes alone, in blocks where that asks for them
        names : what messages call each structure; "structure 0", ... by default

        Raises
        ------
        GraphError, UnsupportedElementError, NonFiniteError : as :meth:`calculate` does; the
            message begins with the name of the structure.
        NotEnoughMemoryError, DeviceError : as :meth:`calculate` does.
        ConfigError : something else than structures, too few names, ``max_edges`` below 1; a
            subclass has a :meth:`calculate` of its own, which would be passed by.
        """
        if isinstance(structures, Atoms):
            raise ConfigError(
                "calculate_many needs a list of structures, found a single ase.Atoms; "
                "pass [atoms], or use get_forces()."
            )
        self._require_own_many()
        check_max_edges(max_edges)
        largest = MAX_EDGES if max_edges is None else max_edges
        largest = min(largest, self._arguments["max_edges"] or largest)
        results: list[dict[str, Any]] = []
        # A list of its own: that of a simulation which goes on beside this is kept. With a
        # skin, displacements of one structure need one search.
        own = SkinList(self.neighbours.cutoff, self.neighbours.skin, dtype=self.neighbours.dtype)
        with self._lock, evaluating_on(self.neighbours.device):
            graphs = named_graphs(structures, names, own, self._check_elements)
            for group in grouped(graphs, lambda named: size_of(named.graph), largest):
                results += evaluate_group(group, self.models, self._blockwise, self._sum_forces)
        return results

    def _require_own_many(self) -> None:
        """Refuse to pass by what a subclass has added to :meth:`calculate`."""
        own = type(self)
        if own.calculate is EqCalculator.calculate:
            return
        if own.calculate_many is EqCalculator.calculate_many:
            raise ConfigError(
                f"{own.__name__} has a calculate of its own, which calculate_many would pass by "
                "(get_hessian and shared calculators call it): give it a calculate_many as well, "
                "or add to the energy with ase.calculators.mixing.SumCalculator."
            )

    def get_hessian(
        self,
        atoms: Atoms,
        *,
        indices: Optional[Sequence[int]] = None,
        displacement: float = 0.01,
        max_edges: Optional[int] = None,
    ) -> NDArray:
        """Return ∂²E/∂r∂r (3n, 3n) in eV/Å², symmetric: see :mod:`eqcalc.calculator.hessian`.

        By central differences of forces. Constraints are ignored; ``indices`` names the n atoms
        that move, all by default. Neither atoms nor results change.
        """
        return hessian(atoms, self, indices=indices, displacement=displacement, max_edges=max_edges)

    def get_descriptors(self, atoms: Atoms) -> NDArray:
        """Return what the network knows of each atom: (n_atoms, n_features) float64, no unit.

        Features that enter the last layers, those that read the energy out of each atom; which
        they are in each architecture says docs/architectures.md. They do not change when the
        structure is turned, moved or mirrored (mirrored: unless the card says that mirror images
        differ), and change their order with the atoms. Neither atoms nor results change.

        The network is rebuilt from the file's card and weights at the first call, which takes
        its time and replays the passport. A structure is evaluated in one pass, not in blocks.

        Raises
        ------
        ConfigError : a committee, or an architecture that does not say where they are.
        ModelFileError : the network cannot be rebuilt; one of your own has to be registered.
        GraphError, UnsupportedElementError, NonFiniteError, NotEnoughMemoryError, DeviceError : as
            :meth:`calculate` does.
        """
        with evaluating_on(self.neighbours.device):
            return self._descriptors(atoms)

    def _outputs(self, graph: AtomicGraph, atoms: Atoms) -> list[tuple[Tensor, Tensor]]:
        """Return energies (n_atoms,) and edge gradients (n_edges, 3) of every member."""
        if self._together is not None and graph.edge_index.shape[1] <= self._most_together:
            with FullPrecision(self.neighbours.device.type):  # as each model's own call
                return list(zip(*self._together(graph), strict=True))
        return [
            blockwise(model, graph, lambda: box_coordinates(atoms))
            for model, blockwise in zip(self.models, self._blockwise, strict=True)
        ]

    def _member(
        self, model: Model, graph: AtomicGraph, energies: Tensor, gradients: Tensor
    ) -> MemberResult:
        forces = self._sum_forces(gradients, graph.edge_index, graph.n_owned)
        if self.neighbours.transfers.needed:
            arrays = self.neighbours.transfers.download(energies, forces)
        else:
            arrays = energies.numpy(), forces.numpy()
        member = MemberResult(*map(self._order.restored, arrays))
        refuse_not_finite(model, member)
        return member

    def _require_elements(self, atoms: Atoms, numbers: bytes) -> None:
        if numbers != self._checked_numbers:
            self._check_elements(atoms)
            self._checked_numbers = numbers

    def _check_elements(self, atoms: Atoms) -> None:
        require_elements(atoms.numbers, self._elements, f"model '{self.card.name}'")


def _restored(
    kind: type[EqCalculator], arguments: dict[str, Any], files: list[tuple[str, str]]
) -> EqCalculator:
    """Return a pickled calculator: its models are those in memory, else those of the files.

    Raises
    ------
    ModelFileError : a file holds another model now, or is not there.
    """
    calculator = kind.__new__(kind)
    Calculator.__init__(calculator)
    calculator._arguments = arguments
    options: dict[str, Any] = {name: arguments.get(name) for name in _OF_MODELS}
    options["trust"] = bool(arguments.get("trust"))
    calculator._use([reload_model(source, sha256, **options) for source, sha256 in files])
    return calculator


def _after_fork() -> None:
    for calculator in list(_alive):
        calculator._begin_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
