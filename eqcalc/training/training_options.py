"""Section ``[training]`` of a training file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from eqcalc.arguments import require_positive
from eqcalc.errors import ConfigError
from eqcalc.training.batch_options import BatchOptions
from eqcalc.training.device_options import DeviceOptions
from eqcalc.training.loss_options import LossOptions
from eqcalc.training.optimizer_options import OptimizerOptions
from eqcalc.training.sections import require_types

__all__ = ["TrainingOptions"]

LEARNING_RATE, LEARNING_RATE_OF_FINE_TUNING = 1e-3, 1e-4


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DeviceOptions, LossOptions, OptimizerOptions, BatchOptions):
    """Section ``[training]``: how to train.

    compile : trace loss and gradients into one compiled graph: minutes to start, then 1.2 to 1.4
        times the steps beside ``kernels``, and several times those without
    start_from : a model whose weights the training begins with, a shipped one's name or a file
    freeze : parameters that keep the values of that file, by patterns of their names, see
        :mod:`eqcalc.training.freezing`
    zbl_cutoff : Å; within it nuclei repel each other by ZBL (:mod:`eqcalc.nn.zbl`), and the network
        learns the rest. A fine-tuning has what its file has
    zbl_radii : in its place, sums of the covalent radii of a pair, such as 1.1: light and heavy
        elements are kept apart by distances of their own
    """

    compile: bool = False
    start_from: Optional[str] = None
    freeze: tuple[str, ...] = ()
    zbl_cutoff: Optional[float] = None
    zbl_radii: Optional[float] = None

    def __post_init__(self) -> None:
        require_types(type(self), vars(self), "[training]")
        self._check_start()
        if self.learning_rate is None:
            begun = LEARNING_RATE if self.start_from is None else LEARNING_RATE_OF_FINE_TUNING
            object.__setattr__(self, "learning_rate", begun)
        self.check_batches()
        self.check_devices()
        self.check_optimizer()
        self.check_loss()
        self._check_stages()

    def _check_stages(self) -> None:
        stage = self.stage_two
        if stage is None:
            return
        if stage.learning_rate is not None and self.schedule != "plateau":
            raise ConfigError(
                'learning_rate in [training.stage_two] goes with schedule = "plateau"; schedule = '
                f'"{self.schedule}" plans that of every epoch. Leave one of them out.'
            )
        if stage.start_epoch >= self.max_epochs:
            raise ConfigError(
                "start_epoch in [training.stage_two] must be below max_epochs, else the stage "
                f"never begins; found {stage.start_epoch} and max_epochs = {self.max_epochs}."
            )

    def _check_start(self) -> None:
        if not all(isinstance(pattern, str) for pattern in self.freeze):
            raise ConfigError(
                f"freeze in [training] must be an array of strings, found {self.freeze!r}."
            )
        if self.freeze and self.start_from is None:
            raise ConfigError(
                "freeze keeps parameters of the model that start_from names; without it they would "
                "stay random numbers. Give start_from, or leave freeze out."
            )
        given = {
            name: value
            for name in ("zbl_cutoff", "zbl_radii")
            if (value := getattr(self, name)) is not None
        }
        require_positive(**given)
        if len(given) == 2:
            raise ConfigError(
                "zbl_cutoff is one distance for all pairs, zbl_radii one for each; leave one out."
            )
        if given and self.start_from is not None:
            raise ConfigError(
                f"{next(iter(given))} does not go with start_from: the repulsion of nuclei is that "
                "of the file that the training starts from."
            )
