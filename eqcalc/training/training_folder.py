"""What a training run leaves on disk, and how it is found again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Optional

from eqcalc.errors import (
    ConfigError,
    OutputError,
    OutputExistsError,
    OutputLostError,
    listing,
)
from eqcalc.files import json_default, refuse_existing, remove_files, write_whole
from eqcalc.training.config import OF_NO_FILE, TrainingConfig, read_config
from eqcalc.versions import package_versions

try:
    import fcntl
except ImportError:  # pragma: no cover - not POSIX
    fcntl = None  # type: ignore[assignment]

__all__ = ["EVENTS", "TrainingFolder", "read_config_of_run"]

EVENTS = "tensorboard"

_CONFIG, _MANIFEST = "train.toml", "manifest.json"
_METRICS, _BEST, _LAST = "metrics.csv", "best.ckpt", "last.ckpt"
_NETWORK, _START = "network.py", "start.pt"
_LOCK = ".in_use"
_LOG, _CURVE, _PARITY = "train.log", "learning_curve.png", "parity.png"
_OF_A_RUN = (
    *(_CONFIG, _MANIFEST, _METRICS, _BEST, _LAST, _NETWORK, _START),
    *(_LOG, _CURVE, _PARITY),
)


class TrainingFolder:
    """The folder of one training run.

    ``train.toml`` is the configuration as it was, with the keys that were set for the run,
    ``network.py`` the file of an architecture that is not eqcalc's own, ``start.pt`` the model that
    a fine-tuning begins with; ``manifest.json`` says when, from where and with which settings;
    ``metrics.csv``, ``best.ckpt`` and ``last.ckpt`` are the training's, ``train.log`` what it said,
    ``learning_curve.png`` and ``parity.png`` its pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best_checkpoint = path / _BEST
        self.last_checkpoint = path / _LAST
        self.metrics = path / _METRICS
        self.start_model = path / _START
        self.log = path / _LOG
        self.learning_curve = path / _CURVE
        self.parity = path / _PARITY

    def exists(self) -> bool:
        """Tell whether a run was ever started here."""
        return (self.path / _MANIFEST).exists() or self.last_checkpoint.exists()

    def refuse_files_of_others(self, config: TrainingConfig, overwrite: bool) -> None:
        """Refuse to begin a run where none is and files of its names are a user's.

        The training file may stand there, and that of its network: they would stay what they are.

        Raises
        ------
        OutputExistsError : there are some, and ``overwrite`` is False.
        """
        if self.exists():
            return
        network = b"" if config.network_file is None else config.network_file.read_bytes()
        stay = {_CONFIG: config.text.encode(), _NETWORK: network}
        found = [self.path / name for name in (*_OF_A_RUN, EVENTS)]
        refuse_existing(
            [p for p in found if not (p.is_file() and stay.get(p.name) == p.read_bytes())],
            overwrite,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder from other trainings as long as this process works in it.

        Raises
        ------
        OutputExistsError : one is running there.
        OutputError : the folder cannot be made.
        """
        lock = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = lock.open("a")
        except OSError as error:
            raise self._unusable(error) from error
        with file:
            if not _is_free(file):
                raise OutputExistsError(
                    f"another training is running in '{self.path}'; wait for its end, or give "
                    "another folder."
                )
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()

    def prepare(
        self,
        config: TrainingConfig,
        resume: bool,
        data: Optional[Mapping[str, Any]] = None,
        *,
        parent: Optional[Mapping[str, Any]] = None,
        start_model: bytes = b"",
    ) -> None:
        """Create the folder; unless resuming, without what an older run left.

        Parameters
        ----------
        data : what the manifest says of the data: units, numbers of frames, notes
        parent : what the manifest says of the model that a fine-tuning starts from
        start_model : content of ``start.pt``; empty for none

        Raises
        ------
        OutputError : the folder cannot be written.
        ConfigError : resuming with a network file that has changed.
        """
        if resume:
            self._refuse_changed_network(config)
        # Read before anything is removed: they may be those of the folder.
        network = b"" if config.network_file is None else config.network_file.read_bytes()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                remove_files(self.path, _OF_A_RUN)
                shutil.rmtree(self.path / EVENTS, ignore_errors=True)
        except OSError as error:
            raise self._unusable(error) from error
        if network and not resume:
            write_whole(self.path / _NETWORK, network)
        if start_model and not resume:
            write_whole(self.start_model, start_model)
        if config.source is not None:
            write_whole(self.path / _CONFIG, config.text.encode())
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            manifest = {
                "started": self._manifest().get("started", now) if resume else now,
                "paths_relative_to": str(config.folder.resolve()),
                "versions": package_versions("lightning"),
                "settings": _settings(config),
                **({} if data is None else {"data": dict(data)}),
                **({} if parent is None else {"start_from": dict(parent)}),
            }
            self._write_manifest(manifest)

    def _unusable(self, error: OSError) -> OutputError:
        return OutputError(f"cannot use '{self.path}' for a training run: {error}.")

    def require_checkpoints(self) -> None:
        """Check after a training that what it wrote is there.

        Raises
        ------
        OutputLostError : a checkpoint is missing.
        """
        for path in (self.best_checkpoint, self.last_checkpoint):
            if not path.is_file():
                raise OutputLostError(
                    f"'{path}' was removed during the training; train again, in a folder that "
                    "stays."
                )

    def read_config(self) -> TrainingConfig:
        """Return the configuration of the run.

        Raises
        ------
        ConfigError : the folder holds no run, its configuration is not readable, or the
            network file has changed since.
        """
        config = read_config(self.path / _CONFIG, self.relative_to())
        self._refuse_changed_network(config)
        return config

    def relative_to(self) -> Path:
        """Return the folder that paths in the run's configuration are relative to.

        Raises
        ------
        ConfigError : the folder holds no run.
        """
        try:
            return Path(self._manifest()["paths_relative_to"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"'{self.path}' is not a training run (it has no readable {_MANIFEST}); give the "
                "folder that eqcalc train wrote."
            ) from error

    def found_at(self, folder: Path) -> None:
        """Note where the configuration's paths lead from now: a project may have moved."""
        self._write_manifest(self._manifest() | {"paths_relative_to": str(folder.resolve())})

    def read_parent(self) -> dict[str, Any]:
        """Return what the manifest says of the model that a fine-tuning starts from.

        Raises
        ------
        ConfigError : it says nothing.
        """
        try:
            return dict(self._manifest()["start_from"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the {_MANIFEST} of '{self.path}' does not say which model its training started "
                "from; start the run again with overwrite=True."
            ) from error

    def refuse_changed_data(
        self, checksums: Mapping[str, Mapping[str, str]], *, done: str = "resumed"
    ) -> None:
        """Compare data files with those that the run began with, wherever they lie now.

        Parameters
        ----------
        checksums : those of :func:`eqcalc.training.data.data_checksums`
        done : what cannot be done with the run otherwise, for the message

        Raises
        ------
        ConfigError : one is another now, or a pattern finds one more or one less.
        """
        kept = self._manifest().get("data", {})
        changed: list[str] = []
        for kind, found in checksums.items():
            begun = kept.get(kind)
            # A run of an older version did not keep them, or not those of this kind.
            if not begun or list(begun.values()) == list(found.values()):
                continue
            paths = dict.fromkeys([*begun, *found])
            changed += [path for path in paths if begun.get(path) != found.get(path)]
        if changed:
            raise ConfigError(
                f"'{self.path}' cannot be {done}: {listing(changed)} has changed, come or gone "
                "since the training began. Put back what there was, or start a new run in another "
                "folder."
            )

    def _write_manifest(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, default=json_default)
        write_whole(self.path / _MANIFEST, (text + "\n").encode())

    def _manifest(self) -> Any:
        return json.loads((self.path / _MANIFEST).read_text(encoding="utf-8"))

    def _refuse_changed_network(self, config: TrainingConfig) -> None:
        """Compare with the copy: trained weights in another network are silent nonsense."""
        network, copy = config.network_file, self.path / _NETWORK
        if network is None or not copy.exists():
            return
        if network.read_bytes() != copy.read_bytes():
            raise ConfigError(
                f"'{network}' has changed since the training in '{self.path}' began; put back "
                f"what it was ('{copy}'), or train anew."
            )


def _is_free(lock: IO[str]) -> bool:
    """Take a lock that ends with the process; where there are none, every folder is free."""
    if fcntl is None:
        return True
    with suppress(OSError):  # of a file system without locks
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def read_config_of_run(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a training file, of which paths in a run's own copy lead from where the run began.

    Raises
    ------
    ConfigError : as :func:`eqcalc.training.config.read_config` does.
    """
    folder = None
    if Path(path).name == _CONFIG:
        with suppress(ConfigError):  # beside it stands no run, whatever else does
            folder = TrainingFolder(Path(path).parent).relative_to()
    return read_config(path, folder, overrides)


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """Return every key of a training file as it was in effect, defaults included."""
    return {name: value for name, value in asdict(config).items() if name not in OF_NO_FILE}
