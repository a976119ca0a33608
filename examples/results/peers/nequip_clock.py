"""A callback for nequip's trainer: :mod:`batch_clock` at the ends of its batches."""

from batch_clock import BatchClock
from lightning.pytorch.callbacks import Callback


class Ends(Callback):
    """Note the ends of batches, and print the rates when the training is over."""

    def __init__(self, batch_size: int) -> None:
        self.clock = BatchClock(batch_size)

    def on_train_batch_end(self, trainer, *_):
        """Note it."""
        self.clock.note(trainer.current_epoch)

    def on_fit_end(self, *_):
        """Print the rates."""
        self.clock.report()
