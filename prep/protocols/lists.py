"""Split lists as their authors publish them: one file a split, one picture a line."""

from __future__ import annotations

from pathlib import Path

from ...contract import SPLITS, InputError
from ..download.tree import without_ending

FILES = {"train": "train.txt", "validate": "val.txt", "test": "test.txt"}


def read_lists(folder: Path) -> dict[str, str]:
    """Return the split of every picture that train.txt, val.txt and test.txt in `folder` name.

    Raises InputError for a list that is missing or no text, and for a picture in two lists.
    """
    splits: dict[str, str] = {}
    for name in SPLITS:
        path = folder / FILES[name]
        for image_id in _names(path):
            if splits.setdefault(image_id, name) != name:
                raise InputError("a picture is in two split lists", where=f"{path}: {image_id}")
    return splits


def _names(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise InputError("split list not found", where=str(path)) from None
    except (OSError, ValueError):
        raise InputError("not a list of names", where=str(path)) from None
    return [without_ending(line.strip()) for line in text.splitlines() if line.strip()]
