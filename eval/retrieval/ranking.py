"""Where each query finds what it looks for, among all texts or among all films.

Reports repeat, so an exact pair cannot always be found; each number is given for the pair and for
any candidate of the same text. Candidates that are as near as each other count as an order drawn at
random would have them, but all before the nearest of the same text that are as near as it.

Axes: N films, each with its text; T distinct texts; C queries of a chunk; D joint embedding;
M candidates that differ; P = len(PLACES).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import Floats

DIRECTIONS = ("image-to-text", "text-to-image")
PLACES = (5, 10, 100)  # the K of precision@K
CHUNK = 512  # queries whose scores are held at once
NEAREST = 5  # candidates of each query that are named
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Embeddings of length 1: of the films [N, D] and of the distinct texts [T, D].

    `text` [N] is the row of each film's text; `same` [N] is equal where texts count as the same,
    `finding` [N] where films show the same one, and None where that is not known.
    """

    images: Floats  # [N, D]
    texts: Floats  # [T, D]
    text: Index
    same: Index
    finding: Index | None = None

    def rankings(self) -> Iterator[dict[str, Any]]:
        """Yield what is found for every film and direction: numbers of candidates, and shares.

        `above` are nearer than its own, `level` as near, its own among them; `equal` have a text
        that is equal to the letter, `same` one that counts as the same, `before` have another and
        are as near as the nearest of those or nearer. `same_share` and `finding_share` are those of
        the first PLACES candidates, or of all where there are fewer. `nearest` are films: those of
        the first NEAREST candidates, of equal texts the first alone; of candidates as near as each
        other the first film comes first.
        """
        rows_of = [np.arange(start, min(start + CHUNK, len(self.text))) for start in self._starts]
        for direction in DIRECTIONS:
            among = self._distinct(direction)
            for row_C in rows_of:
                score_CN = self._scores(direction, row_C)
                columns = self._found(score_CN, row_C)
                columns["nearest"] = nearest(score_CN, among)
                for place, row in enumerate(row_C.tolist()):
                    told = {name: values[place].tolist() for name, values in columns.items()}
                    yield {"film": row, "direction": direction} | told

    @property
    def _starts(self) -> range:
        return range(0, len(self.text), CHUNK)

    def _distinct(self, direction: str) -> Index:
        """Return the films that stand for the distinct candidates, ascending."""
        if direction == DIRECTIONS[0]:
            return np.sort(np.unique(self.text, return_index=True)[1])
        return np.arange(len(self.text))

    def _scores(self, direction: str, row_C: Index) -> Floats:
        """Return the scores [C, N] of all candidates, equal for equal texts."""
        if direction == DIRECTIONS[0]:
            score_CN: Floats = (self.images[row_C] @ self.texts.T)[:, self.text]
        else:
            score_CN = self.texts[self.text[row_C]] @ self.images.T
        return score_CN

    def _found(self, score_CN: Floats, row_C: Index) -> dict[str, npt.NDArray[Any]]:
        own_C1 = np.take_along_axis(score_CN, row_C[:, None], axis=1)
        same_CN = self.same[row_C, None] == self.same
        best_C1 = np.where(same_CN, score_CN, -np.inf).max(axis=1, keepdims=True)
        rights = [same_CN]
        if self.finding is not None:
            rights.append(self.finding[row_C, None] == self.finding)
        share_RCP = shares(score_CN, rights)
        return {
            "above": (score_CN > own_C1).sum(axis=1),
            "level": (score_CN == own_C1).sum(axis=1),
            "equal": (self.text[row_C, None] == self.text).sum(axis=1),
            "same": same_CN.sum(axis=1),
            "before": ((score_CN >= best_C1) & ~same_CN).sum(axis=1),
            "same_share": share_RCP[0],
            "finding_share": share_RCP[1] if len(rights) > 1 else np.empty((len(row_C), 0)),
        }


def nearest(score_CN: Floats, among: Index) -> Index:
    """Return the nearest NEAREST of these candidates, the nearest first.  # [C, NEAREST]

    Of candidates as near as each other the first comes first; all where there are fewer.
    """
    left_CM = score_CN[:, among]  # a copy, from which those found are taken away
    found = []
    for _ in range(min(NEAREST, len(among))):
        place_C1 = left_CM.argmax(axis=1)[:, None]
        np.put_along_axis(left_CM, place_C1, -np.inf, axis=1)
        found.append(among[place_C1])
    return np.concatenate(found, axis=1)


def shares(score_CN: Floats, rights: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """Return the share [R, C, P] of right candidates among the first PLACES, for each of `rights`.

    Candidates at the score of the last of these places count as an order drawn at random would
    have them.
    """
    columns = []
    for most in PLACES:
        k = min(most, score_CN.shape[1])
        last_C1 = -np.partition(-score_CN, k - 1, axis=1)[:, k - 1 : k]
        above_CN, level_CN = score_CN > last_C1, score_CN == last_C1
        left_C = (k - above_CN.sum(axis=1)) / level_CN.sum(axis=1)
        columns.append(
            [
                ((right_CN & above_CN).sum(axis=1) + left_C * (right_CN & level_CN).sum(axis=1)) / k
                for right_CN in rights
            ]
        )
    return np.moveaxis(np.array(columns, dtype=np.float64), 0, -1)
