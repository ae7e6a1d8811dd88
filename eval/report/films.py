"""Films of an evaluation: regions and boxes as found, and the most confident wrong answers.

Axes: N test films, L labels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...contract import InputError
from ...page import Prose, Sheet, Tile
from ...prep.sheets.films import small_picture
from ...shards.manifest import ShardSet
from ...shards.reader import ShardReader
from ..encoders.features import to_bytes
from ..metrics import Floats, probabilities
from ..statistics.answers import HALF, Answers
from ..statistics.kept import PLACE
from ..table import Cell
from .opened import Opened

SHOWN = 6  # wrong films shown of each kind
TINTED = ("zeroshot", "ground")  # tasks whose drawings hide the film, which is shown beside them
DRAWN = {
    "zeroshot": "tinted where a place lies nearer to the label's prompts",
    "segment": "its region green, the predicted one orange",
    "detect": "its boxes green, the predicted ones orange",
    "ground": "its region green, the predicted one orange, tinted where prompts lie nearer",
}
CHOSEN = {
    "zeroshot": "Of each of the labels with most cases, the film that scored highest among those "
    "with it, then among those without. No tint is the place of that film that lies farthest from "
    "the prompts for presence, full tint the nearest. Scores have no temperature here, and lie "
    "near 0.5.",
    "segment": "Films with a region, from the least overlap to the most.",
    "detect": "Films with a box, spread over the test split.",
    "ground": "Films with a region, from the least overlap to the most. The tint has one scale for "
    "all films.",
}


def overlay_sheets(opened: Opened, task: str) -> Iterator[Sheet]:
    """Yield the films that a task has drawn its predictions on."""
    for told in opened.cells(task, controls=False):
        if not told.get("overlays"):
            continue
        folder = opened.kept.folder / task / Cell(**told["cell"]).name
        tiles = []
        for key, words in told["overlays"]:
            drawn = ("", _small(folder / f"{key}.png"))
            plain = [("", _picture(opened.shards, key))] if task in TINTED else []
            tiles.append(Tile(pictures=(*plain, drawn), caption=(key, words)))
        yield Sheet(title=f"{task}, {DRAWN[task]}", text=CHOSEN[task], tiles=tuple(tiles))


def _small(path: Path) -> str:
    pixels_HWC = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    return "" if pixels_HWC is None else small_picture(np.asarray(pixels_HWC))


def wrong_blocks(opened: Opened, task: str) -> Iterator[Sheet | Prose]:
    """Yield the films of which a task was surest and wrong: cases missed, and false alarms."""
    wanted = [tuple(told["cell"][n] for n in PLACE) for told in opened.cells(task, controls=False)]
    for cell, answers in opened.kept.answered:
        if tuple(cell[name] for name in PLACE) not in wanted:
            continue
        value_NL = _values(answers)
        sheets = []
        for target, word in ((1, "Missed"), (0, "False alarms")):
            chosen = _worst(answers, value_NL, target)
            tiles = [_tile(answers, value_NL, place, opened.shards) for place in chosen]
            if tiles:
                title = f"{task}: {word.lower()}, the most confident {len(tiles)}"
                sheets.append(Sheet(title=title, tiles=tuple(tiles)))
        if not sheets and answers.counted.any():
            text = f"{task}: no label was answered wrongly at its threshold."
            yield Prose(text=text, tone="quiet", private=True)
        elif sheets and opened.shards is None:
            text = "The shards that were evaluated are not here any more: no pictures."
            yield Prose(text=text, tone="quiet", private=True)
        yield from sheets


def _values(answers: Answers) -> Floats:
    """Return the probability of each film and label [N, L], tempered where that was settled."""
    value_NL = answers.scores.copy()
    for label, settled in enumerate(answers.settled):
        if settled.slope is not None:
            value_NL[:, label] = probabilities(answers.scores[:, label], slope=settled.slope)
    return value_NL


def _worst(answers: Answers, value_NL: Floats, target: int) -> list[tuple[int, int]]:
    """Return film and label of the surest wrong answers, each film once."""
    threshold_L = np.array([HALF if s.threshold is None else s.threshold for s in answers.settled])
    said_NL = answers.scores >= threshold_L
    wrong_NL = (answers.targets == target) & (said_NL != bool(target)) & answers.counted
    places = np.argwhere(wrong_NL)
    off = np.abs(target - value_NL[wrong_NL])
    found: dict[int, tuple[int, int]] = {}
    for film, label in places[np.argsort(-off, kind="stable")].tolist():
        found.setdefault(film, (film, label))
    return list(found.values())[:SHOWN]


def _tile(
    answers: Answers, value_NL: Floats, place: tuple[int, int], shards: ShardSet | None
) -> Tile:
    film, label = place
    settled = answers.settled[label]
    threshold = HALF if settled.threshold is None else settled.threshold
    said = f"score {value_NL[place]:.3f}, threshold {threshold:.3f}"
    if settled.slope is not None:
        (threshold,) = probabilities(np.array([threshold]), slope=settled.slope)
        said = f"probability {value_NL[place]:.3f}, threshold {threshold:.3f}"
    present = "present" if answers.targets[place] else "absent"
    key = answers.keys[film]
    return Tile(
        pictures=(("", _picture(shards, key)),),
        caption=(key, f"{answers.labels[label]}: {present}, {said}"),
    )


def _picture(shards: ShardSet | None, key: str) -> str:
    """Return a film of the shards; empty where it is not there or damaged."""
    if shards is None:
        return ""
    keys: Sequence[Any] = shards.column("key")  # type: ignore[assignment]
    reader = ShardReader(shards)
    try:
        ordinals = np.array([keys.index(key)], dtype=np.int64)
        return small_picture(to_bytes(reader.images(ordinals))[0])
    except (ValueError, InputError):
        return ""
    finally:
        reader.close()
