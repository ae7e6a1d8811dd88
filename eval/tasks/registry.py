"""The tasks there are, in the order of the tables."""

from __future__ import annotations

from collections.abc import Sequence

from ...contract import UsageError
from .detect import Detect
from .finetune import Finetune, LinearAugmented
from .ground import Ground
from .linear import Linear
from .retrieve import Retrieve
from .segment import Segment
from .task import Task
from .zeroshot import ZeroShot

OF_LABELS: tuple[Task, ...] = (ZeroShot(), Linear(), LinearAugmented(), Finetune())
ALL: tuple[Task, ...] = (
    *OF_LABELS,
    *(Segment(), Detect(), Ground(), Retrieve()),
)
TASKS: dict[str, Task] = {task.name: task for task in ALL}
DEFAULT = ("zeroshot", "linear")


def choose_tasks(names: Sequence[str], *, augment: bool) -> tuple[str, ...]:
    """Return the tasks that `--task` names, in the order of the tables; without one, the default.

    With `augment`, linear layers are trained on augmented passes. UsageError for another name.
    """
    asked = set(names or DEFAULT)
    unknown = asked - {*TASKS, "all"}
    if unknown:
        raise UsageError(f"--task {min(unknown)!r} is not one of {', '.join(TASKS)}, all")
    if "all" in asked:
        asked = set(TASKS) - {LinearAugmented.name}
    if augment and Linear.name not in asked:
        raise UsageError("--augment has a meaning for --task linear alone")
    if augment:
        asked = asked - {Linear.name} | {LinearAugmented.name}
    return tuple(name for name in TASKS if name in asked)
