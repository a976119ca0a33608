"""From a potential to what runs: the model file, the network rebuilt from it, compiled packages.

The only folder that calls torch.jit.script, torch.jit.save and the compiler.
"""

from eqcalc.export.archive import read_archive, write_archive
from eqcalc.export.compile import compile_committee, compile_exchange, compile_model, trace_model
from eqcalc.export.model import export_model
from eqcalc.export.rebuild import rebuild_potential

__all__ = [
    "compile_committee",
    "compile_exchange",
    "compile_model",
    "export_model",
    "read_archive",
    "rebuild_potential",
    "trace_model",
    "write_archive",
]
