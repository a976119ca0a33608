"""What an installation can do and what is in its way: :func:`examine`, behind ``eqcalc doctor``.

What belongs here: probes that find a fault and say in a line what to do. Nothing here imports torch
or ase before a process of its own has shown that they can be imported, since what is looked for may
be broken.
"""

from eqcalc.doctor.examination import Examination, examine
from eqcalc.doctor.remark import Remark, State

__all__ = ["Examination", "Remark", "State", "examine"]
