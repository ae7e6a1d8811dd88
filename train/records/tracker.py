"""Trackers: programs that draw the metrics of many runs, told of scalars and the recipe alone.

No picture, text or key of a sample reaches a tracker. TensorBoard is built in; any other is a class
in a file of the user's (docs/reference/trackers.md).
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...contract import Access, InputError, UsageError

UNTRACKED = ("step",)  # fields of metrics.jsonl that are no measured value


class Tracker(Protocol):
    """What a tracker must do; `online` tells whether it sends anything to another machine."""

    online: bool

    def begin(self, *, run: str, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Start, or go on after `step`; later steps that were told before are told again."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the scalars of a step, by their names in metrics.jsonl."""

    def end(self) -> None:
        """Close; no more is told."""


class TensorBoard:
    """Writes event files into `tensorboard/` of the run's folder."""

    online = False

    def begin(self, *, run: str, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Open a file of events, which hides those after `step` in earlier files."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Write what is left."""
        self._writer.close()


def choose_tracker(name: str, *, access: Access, allow_online: bool) -> Callable[[], Tracker]:
    """Return the class of a tracker: `tensorboard`, or CLASS of a file named as FILE.py:CLASS.

    Raises UsageError for another name, when its library is missing, and when it is online, the
    data are restricted and `allow_online` was not given; InputError for a file that cannot be
    loaded.
    """
    found: Any = _tensorboard() if name == "tensorboard" else _from_file(name)
    if access != "open" and getattr(found, "online", True) and not allow_online:
        raise UsageError(
            f"--track {name} sends metrics and the recipe of a run on restricted data elsewhere",
            todo="give --allow-online where that is allowed; scalars and the recipe are sent, "
            "never pictures, texts or keys",
        )
    chosen: Callable[[], Tracker] = found
    return chosen


def _tensorboard() -> type[TensorBoard]:
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--track tensorboard: its library is not installed",
            todo="pip install 'imitate-cxr[track]'",
        )
    return TensorBoard


def _from_file(name: str) -> Any:
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UsageError(
            f"--track {name!r} is neither tensorboard nor FILE.py:CLASS",
            todo="docs/reference/trackers.md has an example",
        )
    spec = importlib.util.spec_from_file_location("imitate_tracker", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise InputError("no such file of a tracker", where=file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"the file of the tracker cannot be loaded: {type(error).__name__}", where=file
        ) from None
    if not hasattr(module, attribute):
        raise InputError(f"the file has no {attribute}", where=file)
    return getattr(module, attribute)


class Tracking:
    """A tracker in a run. When it fails the run goes on without it, and one line says so."""

    def __init__(
        self, chosen: Callable[[], Tracker], *, run: str, folder: Path, config: Mapping[str, Any]
    ) -> None:
        self._chosen = chosen
        self._told: dict[str, Any] = {"run": run, "folder": folder, "config": config}
        self._tracker: Tracker | None = None

    def begin(self, step: int, tell: Callable[[str], None]) -> None:
        """Start, or go on after `step`."""
        try:
            self._tracker = self._chosen()
        except Exception as error:  # whatever a library of others raises
            self._fail(error, tell)
        self._try(lambda tracker: tracker.begin(**self._told, step=step), tell)

    def log(self, row: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        """Tell the scalars of a step."""
        values = {
            name: float(value)
            for name, value in row.items()
            if isinstance(value, int | float) and name not in UNTRACKED
        }
        self._try(lambda tracker: tracker.log(row["step"], values), tell)

    def end(self, tell: Callable[[str], None]) -> None:
        """Close the tracker if it was started."""
        self._try(lambda tracker: tracker.end(), tell)

    def _try(self, act: Callable[[Tracker], None], tell: Callable[[str], None]) -> None:
        if self._tracker is None:
            return
        try:
            act(self._tracker)
        except Exception as error:
            self._fail(error, tell)

    def _fail(self, error: Exception, tell: Callable[[str], None]) -> None:
        failed, self._tracker = self._tracker, None
        with contextlib.suppress(Exception):
            if failed is not None:
                failed.end()
        tell(f"the tracker failed ({type(error).__name__}); the run goes on without it")
