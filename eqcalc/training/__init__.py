"""From labelled frames to a trained potential: the training file, the run, its folder, its export.

What belongs here: everything that only training a potential needs; running a model needs none
of it, nor Lightning. Nothing here knows one architecture from another.

>>> from eqcalc.training import TrainingFolder, export_run, read_config, train
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqcalc.late_names import late_names

if TYPE_CHECKING:
    from eqcalc.training.config import TrainingConfig, read_config
    from eqcalc.training.finish import Finished, export_run, load_potential
    from eqcalc.training.reports import Report
    from eqcalc.training.run import train
    from eqcalc.training.training_folder import TrainingFolder

__all__ = [
    "Finished",
    "Report",
    "TrainingConfig",
    "TrainingFolder",
    "export_run",
    "load_potential",
    "read_config",
    "train",
]

# Reading a training file needs neither Lightning nor the models' engines.
__getattr__ = late_names(
    __name__,
    {
        "Finished": "finish",
        "Report": "reports",
        "TrainingConfig": "config",
        "TrainingFolder": "training_folder",
        "export_run": "finish",
        "load_potential": "finish",
        "read_config": "config",
        "train": "run",
    },
)
