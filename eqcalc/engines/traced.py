"""The engines ``triton`` and ``inductor`` on a GPU: a network's program, traced in this process.

The network is built again from the file's card and weights, and energy and gradient are traced
into one program of tensor operations. In float32 the filters of SchNet, PaiNN and NequIP are tables
in it, and their convolutions those of :mod:`eqcalc.triton_kernels`. That takes seconds at each
start.

``triton`` runs the program operation by operation; the first start on a machine takes half a
minute more, in which Triton compiles the kernels and keeps them. ``inductor`` has torch's compiler
fuse the operations: a minute at the first start, less at later ones, which find the kernels in a
folder (:mod:`eqcalc.native.compiler_folder`). ``eqcalc compile`` is that first start. Packages that
torch compiles ahead of time for a GPU are not used: torch 2.11 died when it loaded one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Optional

import torch
from torch import Tensor

from eqcalc.device_use import is_out_of_memory, reason_of
from eqcalc.devices import has_triton
from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.packages import Traced, trace_program
from eqcalc.engines.program import Program
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.compiler_folder import private_compiler_folder

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FusedEngine", "TritonEngine", "started"]

Function = Callable[..., tuple[Tensor, Tensor]]


class _TracedEngine(Program, Engine):
    """Run a traced program.

    only_tables : whether a network without tables is refused
    """

    device_types = ("cuda",)
    takes_weights = True
    only_tables: ClassVar[bool]

    @staticmethod
    def made_of(program: Function) -> Function:
        """Return what runs in place of the program."""
        return program

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> Self:
        """Trace the program, and run it once, so that its kernels are compiled.

        Raises
        ------
        EngineError : see :meth:`can_run`; or the network cannot be traced, or what comes of it
            cannot be compiled.
        """
        why = cls.can_run(file, target)
        if why is not None:
            raise EngineError(why)
        traced = trace_program(file, target, only_tables=cls.only_tables)
        try:
            function = started(traced, cls.made_of)
        except Exception as error:  # of a compiler, or no folder for it: no common class
            if is_out_of_memory(error):
                raise
            raise EngineError(
                f"torch {torch.__version__} cannot run what {cls.name} makes of "
                f"'{file.card.name}' for {target}: {reason_of(error)}"
            ) from error
        return cls(lambda inputs: function(*inputs), target, reach=2.0 * file.card.cutoff)


class TritonEngine(_TracedEngine):
    """Run the program of a network with tables, operation by operation."""

    name = "triton"
    only_tables = True

    @classmethod
    def can_run(cls, file: ModelFile, target: Target) -> Optional[str]:
        """Return why not: another device or precision, or Triton is missing."""
        why = super().can_run(file, target)
        if why is None and target.dtype != torch.float32:
            why = f"tables are for float32, this is {target.precision}"
        if why is None and not has_triton():
            why = "Triton, which comes with torch for CUDA on Linux, is not installed"
        return why


class FusedEngine(_TracedEngine):
    """Run a program that torch has fused; :class:`InductorEngine`, whose name it has, loads it."""

    name = "inductor"
    only_tables = False

    @staticmethod
    def made_of(program: Function) -> Function:
        """Return the program as torch compiles it, for any sizes, at the first call."""
        return torch.compile(program, fullgraph=True, dynamic=True)


def started(traced: Traced, make: Callable[[Function], Function]) -> Function:
    """Return what was made of a program, without gradients; it has run once.

    Raises
    ------
    Exception : whatever compilers raise; there is no common class.
    """
    function = torch.no_grad()(make(traced.program))
    with private_compiler_folder():
        function(*traced.example)
    return function
