"""The members of a committee as one compiled package: one call returns the answers of all.

The networks stand one after the other in one ahead-of-time graph, so they may differ in
everything; what is saved is the cost of a call, and whatever of the geometry the compiler
finds to be the same. Weights stacked along a new axis took longer on a CPU, see docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eqcalc.engines.engine import Target
from eqcalc.engines.inductor import CompiledPackage
from eqcalc.engines.packages import find_package, make_package, why_no_package
from eqcalc.errors import EngineError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile
from eqcalc.model_file.passport import read_passport, verify

__all__ = ["ONE_BY_ONE", "CommitteeEngine"]

ONE_BY_ONE = "on a GPU the members of a committee run one by one"


class CommitteeEngine(CompiledPackage):
    """Run the package of a committee; every member's slice has reproduced its passport.

    Called as an engine is, it returns energies (n_members, n_atoms) in eV and
    edge_gradients (n_members, n_edges, 3) in eV/Å. It runs several files, so it is none of the
    engines that a single model can ask for.
    """

    name = "inductor"

    @classmethod
    def prepare(cls, files: Sequence[ModelFile], target: Target) -> None:
        """Compile the members together, unless that is done.

        Raises
        ------
        EngineError : they cannot be compiled.
        CacheError : there is no place to keep the package.
        """
        make_package(files, target)

    @classmethod
    def load(cls, files: Sequence[ModelFile], target: Target) -> CommitteeEngine:
        """Load the package and prove every member.

        Parameters
        ----------
        files : the members, in the order in which they were compiled

        Raises
        ------
        EngineError : they were not compiled together, or torch cannot load the package, or the
            device is a GPU.
        ModelFileError : a member's slice does not reproduce its passport.
        """
        if target.device.type == "cuda":
            raise EngineError(ONE_BY_ONE)
        path = find_package(files, target)
        if path is None:
            raise EngineError(why_no_package(files, target))
        engine = cls(path, target, reach=2.0 * max(file.card.cutoff for file in files))
        for member, file in enumerate(files):
            engine._prove(member, file)
        return engine

    def _prove(self, member: int, file: ModelFile) -> None:
        def evaluate(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
            energies, gradients = self(graph)
            return energies[member], gradients[member]

        verify(
            read_passport(file),
            evaluate,
            file.card.cutoff,
            self.dtype,
            self.device,
            f"{file.path} in a committee",
        )
