"""The members of a committee as one compiled package: one call returns the answers of all.

The networks stand one after the other in one ahead-of-time graph, so they may differ in
everything; what is saved is the cost of a call, and whatever of the geometry the compiler
finds to be the same. Weights stacked along a new axis took longer on a CPU, see docs/speed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eqcalc.engines.inductor import (
    CompiledPackage,
    key_of,
    options_of,
    prepare_kernels,
    target_name,
)
from eqcalc.engines.package_cache import PackageCache
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.passport import Passport, verify

__all__ = ["CommitteeEngine", "compile_committee_package", "find_committee_package"]


class CommitteeEngine(CompiledPackage):
    """Run the package of a committee; every member's slice has reproduced its passport.

    Called as an engine is, it returns energies (n_members, n_atoms) in eV and
    edge_gradients (n_members, n_edges, 3) in eV/Å.

    Parameters
    ----------
    files : the members, in the order in which they were compiled

    Raises
    ------
    EngineError : they were not compiled together, or torch cannot load the package.
    ModelFileError : a member's slice does not reproduce its passport.
    """

    name = "inductor"

    def __init__(
        self, files: Sequence[ModelFile], device: torch.device, dtype: torch.dtype
    ) -> None:
        path = find_committee_package(files, device, dtype)
        if path is None:
            paths = " ".join(str(file.path) for file in files)
            raise EngineError(
                f"not compiled together for {target_name(device, dtype)}; run: eqcalc compile "
                f"{paths}{options_of(files[0], device, dtype)}"
            )
        super().__init__(path, device, dtype, reach=2.0 * max(f.card.cutoff for f in files))
        for member, file in enumerate(files):
            self._prove(member, file)

    def _prove(self, member: int, file: ModelFile) -> None:
        def evaluate(
            atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor, n_owned: int
        ) -> tuple[Tensor, Tensor]:
            energies, gradients = self(atomic_numbers, edge_vectors, edge_index, n_owned)
            return energies[member], gradients[member]

        verify(
            Passport.from_json(file.passport), evaluate, file.card.cutoff, self.dtype,
            self.device, f"{file.path} in a committee",
        )  # fmt: skip


def find_committee_package(
    files: Sequence[ModelFile], device: torch.device, dtype: torch.dtype
) -> Path | None:
    """Return the path of the package that runs these members in this order, or None."""
    return PackageCache().find(_key(files, device, dtype))


def compile_committee_package(
    files: Sequence[ModelFile], device: torch.device, dtype: torch.dtype
) -> Path:
    """Compile members together, unless that is done, and return the package's path.

    Raises
    ------
    EngineError : they cannot be compiled.
    """
    from eqcalc.export import compile_committee

    def compile_to(package: Path) -> None:
        prepare_kernels(device)
        compile_committee(files, package, device, dtype)

    try:
        return PackageCache().make(_key(files, device, dtype), compile_to)
    except Exception as error:  # tracer, exporter, C++ compiler: no common class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        names = ", ".join(f"'{file.card.name}'" for file in files)
        raise EngineError(
            f"{names} cannot be compiled together for {target_name(device, dtype)}: {reason}"
        ) from error


def _key(
    files: Sequence[ModelFile], device: torch.device, dtype: torch.dtype
) -> dict[str, str]:
    # The order belongs to the key: it is that of the package's first axis.
    return key_of(files[0], device, dtype) | {"model": ",".join(file.sha256 for file in files)}
