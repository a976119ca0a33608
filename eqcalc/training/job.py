"""What a training works on: frames that were read and checked, and the module that is trained."""

from __future__ import annotations

from typing import NamedTuple, Optional, cast

from torch.utils.data import DataLoader

from eqcalc.data.batches import LabelledGraph
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import TrainingData, read_training_data, refuse_unfit_data
from eqcalc.training.fine_tuning import build_fine_tuning, resume_fine_tuning
from eqcalc.training.loaders import (
    FilledBatches,
    refuse_large_frames,
    training_batches,
    validation_batches,
)
from eqcalc.training.module import PotentialModule
from eqcalc.training.network import Start, build_start
from eqcalc.training.replay import Replay, read_replay, refuse_unfit_replay
from eqcalc.training.team import ALONE, Team
from eqcalc.training.training_folder import TrainingFolder

__all__ = ["Job", "build_job"]


class Job(NamedTuple):
    """A training that can begin.

    notes : what was decided or found odd beside what reading has said
    """

    config: TrainingConfig
    data: TrainingData
    replay: Optional[Replay]
    start: Start
    module: PotentialModule
    notes: list[str]

    def training_batches(self, team: Team = ALONE) -> DataLoader[LabelledGraph]:
        """Return the batches of the training, or a process's shares of them."""
        return training_batches(
            self.start.train,
            self.config.training,
            self.config.seed,
            team=team,
            replayed=self.start.replayed,
            fraction=0.0 if self.config.replay is None else self.config.replay.fraction,
        )

    def validation_batches(self) -> list[DataLoader[LabelledGraph]]:
        """Return batches of new frames, and of old ones where some are replayed."""
        both = (self.start.validation, self.start.replay_validation)
        return [validation_batches(each, self.config.training) for each in both if each]


def build_job(
    config: TrainingConfig, run: TrainingFolder, *, from_folder: bool, trust: bool = False
) -> Job:
    """Read the frames of a training, check them, and build its potential and its graphs.

    Parameters
    ----------
    from_folder : a fine-tuning begins with the model that its run's folder holds
    trust : the model that ``start_from`` names may hold any program

    Raises
    ------
    DataError, ConfigError, GraphError and others : see :func:`eqcalc.training.run.train`.
    """
    data = read_training_data(config)
    replay = read_replay(config)
    odd = refuse_unfit_data(config, data)
    if replay is not None:
        odd += refuse_unfit_replay(config, data, replay)
    if not config.is_fine_tuning:
        start = build_start(config, data)
    elif from_folder:
        start = resume_fine_tuning(config, data, replay, run.start_model)
    else:
        start = build_fine_tuning(config, data, replay, trust=trust)
    refuse_large_frames(data.train.frames, start.train, config.training)
    if replay is not None:
        refuse_large_frames(replay.train.frames, start.replayed, config.training)
    module = PotentialModule(
        start.potential,
        config.training,
        start.architecture,
        config.seed,
        one_size=len({item.graph.n_owned for item in start.validation}) == 1,
    )
    job = Job(config, data, replay, start, module, [*odd, *start.notes])
    return job._replace(notes=[*job.notes, *_notes_on_warmup(job)])


def _notes_on_warmup(job: Job) -> list[str]:
    options = job.config.training
    if options.warmup_steps == 0:
        return []
    batches = cast("FilledBatches", job.training_batches().batch_sampler)
    n_steps = options.max_epochs * batches.n_batches
    if options.warmup_steps < n_steps:
        return []
    return [
        f"warmup_steps = {options.warmup_steps}, and the whole training has {n_steps} steps: the "
        "learning rate is never reached."
    ]
