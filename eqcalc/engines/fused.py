"""The engine ``inductor`` on a GPU: the traced program, its operations fused by torch's compiler.

On a GPU torch compiles in the process that runs the model, into kernels that it keeps in a folder
(:mod:`eqcalc.native.compiler_folder`): the first start takes a minute, later ones some ten seconds.
``eqcalc compile`` is that first start; its package says that it has been made. Packages that torch
compiles ahead of time for a GPU are not used: torch 2.11 died when it loaded one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqcalc.device_use import is_out_of_memory, reason_of
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.packages import Traced, trace_program
from eqcalc.engines.program import Program
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.compiler_folder import private_compiler_folder

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FusedEngine", "fill_compiler_folder"]


class FusedEngine(Program, Engine):
    """Run a program that torch has fused; made by :class:`InductorEngine`, whose name it has."""

    name = "inductor"
    device_types = ("cuda",)
    takes_weights = True

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> Self:
        """Fuse the program of a model; in a minute where no package is loaded before.

        Raises
        ------
        EngineError : torch cannot compile it.
        """
        traced = trace_program(file, target, only_tables=False)
        try:
            with private_compiler_folder():
                fused = _fused(traced)
        except Exception as error:  # of the compiler: no common class
            if is_out_of_memory(error):
                raise
            raise EngineError(
                f"torch {torch.__version__} cannot compile '{file.card.name}' for {target}: "
                f"{reason_of(error)}"
            ) from error

        @torch.no_grad()
        def call(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
            return fused(*inputs)

        return cls(call, target, reach=2.0 * file.card.cutoff)


def fill_compiler_folder(traced: Traced) -> None:
    """Compile a program, so that later starts find its kernels.

    Raises
    ------
    Exception : whatever the compiler raises; there is no common class.
    """
    with private_compiler_folder():
        _fused(traced)


@torch.no_grad()
def _fused(traced: Traced) -> Any:
    """Return the program as torch compiles it, for any sizes; it has run once."""
    fused = torch.compile(traced.program, fullgraph=True, dynamic=True)
    fused(*traced.example)
    return fused
