"""The engine that runs tabulated networks with eqcalc's own kernels for GPUs, uncompiled.

The network is built again from the file's card and weights, its filters are put into tables, and
energy and gradient are traced into one program of tensor operations, in which the convolutions are
those of :mod:`eqcalc.triton_kernels`. That takes seconds at each start, and half a minute more at
the first on a machine: then Triton compiles the kernels and keeps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import torch
from torch import Tensor

from eqcalc.device_use import is_out_of_memory, reason_of
from eqcalc.devices import has_triton
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.packages import trace_program
from eqcalc.engines.program import Program
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.compiler_folder import private_compiler_folder

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TritonEngine"]


class TritonEngine(Program, Engine):
    """Run the traced program of a tabulated network, operation by operation."""

    name = "triton"
    device_types = ("cuda",)
    takes_weights = True

    @classmethod
    def can_run(cls, file: ModelFile, target: Target) -> Optional[str]:
        """Return why not: another device or precision, or Triton is missing."""
        why = super().can_run(file, target)
        if why is None and target.dtype != torch.float32:
            why = f"tables are for float32, this is {target.precision}"
        if why is None and not has_triton():
            why = "Triton, which comes with torch for CUDA on Linux, is not installed"
        return why

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> Self:
        """Trace the program, and run it once, so that its kernels are compiled.

        Raises
        ------
        EngineError : see :meth:`can_run`; or the network has no form with tables, or its kernels
            cannot be compiled.
        """
        why = cls.can_run(file, target)
        if why is not None:
            raise EngineError(why)
        program, example = trace_program(file, target, only_tables=True)

        @torch.no_grad()
        def call(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
            return program(*inputs)

        try:
            with private_compiler_folder():
                call(list(example))
        except Exception as error:  # of Triton's compiler, or no folder for it: no common class
            if is_out_of_memory(error):
                raise
            raise EngineError(
                f"eqcalc's kernels for GPUs cannot run on {target.device}: {reason_of(error)}"
            ) from error
        return cls(call, target, reach=2.0 * file.card.cutoff)
