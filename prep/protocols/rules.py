"""The rules of the YAML files, each a small function that moves pictures between splits.

All pictures begin in `train`, in the order of the archive's table; the rules of a protocol work on
them one after another, and keep the order in which they draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...contract import SPLITS, InputError
from .retrieval import five_by_200
from .splits import held_out, split_by_group


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: its kind, one of RULES, and what the YAML file says to it."""

    kind: str
    options: Any


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a split is drawn from; `rows` may name a picture several times, as its table does."""

    dataset: str
    rows: Sequence[str]
    subjects: Mapping[str, str]
    official: Mapping[str, str]
    labels: Mapping[str, Mapping[str, float]]
    seed: int


@dataclass(kw_only=True)
class Draft:
    """A split while it is drawn: its pictures in order, and those that are also trained on."""

    pictures: Pictures
    pools: dict[str, list[str]]
    repeated: set[str] = field(default_factory=set)

    def deal(self, splits: Iterable[tuple[str, str | None]]) -> None:
        """Put pictures, in this order, into the splits that are named; None leaves one out."""
        self.pools = {name: [] for name in SPLITS}
        for image_id, name in splits:
            if name is not None:
                self.pools[name].append(image_id)

    def splits(self) -> dict[str, str]:
        """Return the split of each picture, in the order drawn."""
        return {image_id: name for name, pool in self.pools.items() for image_id in pool}


def draw(rules: Sequence[Rule], pictures: Pictures) -> Draft:
    """Return the split that the rules draw; InputError where the archive lacks what they need."""
    draft = Draft(pictures=pictures, pools={})
    draft.deal((image_id, "train") for image_id in dict.fromkeys(pictures.rows))
    for rule in rules:
        RULES[rule.kind](draft, rule.options)
    return draft


def _needs(draft: Draft, wanted: Mapping[str, str]) -> None:
    """Raise InputError unless the archive publishes the splits that are named."""
    found = set(draft.pictures.official.values())
    for name, what in wanted.items():
        if name not in found:
            raise InputError(
                f"this protocol needs the archive's own {name} split",
                where=what,
                todo="add it to the archive, or take another --protocol",
            )


def _official(draft: Draft, names: Mapping[str, str]) -> None:
    """Take the archive's own splits under these names; those not named are left out."""
    official = draft.pictures.official
    draft.deal(
        (image_id, names.get(official.get(image_id, "train"))) for image_id in draft.splits()
    )


def _apart(draft: Draft, tested: str) -> None:
    """Leave out of train the pictures of subjects that the official test has too."""
    subjects = draft.pictures.subjects
    taken = {subjects[image_id] for image_id in draft.pools[tested] if image_id in subjects}
    draft.pools["train"] = [i for i in draft.pools["train"] if subjects.get(i) not in taken]


def _by_subject(draft: Draft, shares: Mapping[str, float]) -> None:
    """Cut what is in train by shares, all pictures of a subject together."""
    pictures = draft.pictures
    groups = {i: pictures.subjects.get(i, i) for i in draft.pools["train"]}
    purpose = f"{pictures.dataset} split"
    by_group = split_by_group(groups.values(), shares=shares, purpose=purpose, seed=pictures.seed)
    drawn = {image_id: by_group[group] for image_id, group in groups.items()}
    draft.deal((draft.splits() | drawn).items())


def _hold_out(draft: Draft, options: Mapping[str, Any]) -> None:
    """Hold out a part of one split as scikit-learn draws it.

    `from` is cut into `kept`, its first output, and `held`, its second. `size` is a share, or a
    number out of `of`, which stands for the same share where there are others. `sorted` draws
    from sorted ids; otherwise the order counts. `stratify` names the label whose share is kept.
    """
    pool = draft.pools[options["from"]]
    pool = sorted(pool) if options.get("sorted") else pool
    strata = None
    if label := options.get("stratify"):
        strata = [str(draft.pictures.labels[image_id][label]) for image_id in pool]
    size = _share(options["size"], options.get("of"), len(pool))
    kept, held = held_out(len(pool), size=size, seed=options["seed"], strata=strata)
    draft.pools[options["from"]] = []
    draft.pools[options["kept"]] = [pool[position] for position in kept]
    draft.pools[options["held"]] = [pool[position] for position in held]


def _share(size: int | float, complete: int | None, count: int) -> int | float:
    return size if complete in (None, count) else size / complete


def _rows(draft: Draft, options: Mapping[str, Any]) -> None:
    """Hold out a share of the table's rows, not of its pictures, and halve it: test, validation.

    A picture with rows in several splits counts for the last; `repeated`, with a row in train.
    """
    rows = draft.pictures.rows
    train, held = held_out(len(rows), size=options["size"], seed=options["seed"])
    first, second = held_out(len(held), size=0.5, seed=options["seed"])
    parts = {
        "train": [rows[index] for index in train],
        "validate": [rows[held[index]] for index in second],
        "test": [rows[held[index]] for index in first],
    }
    splits = {image_id: name for name, part in parts.items() for image_id in part}
    draft.deal(splits.items())
    draft.repeated = {i for i in parts["train"] if splits[i] != "train"}


def _positions(draft: Draft, options: Mapping[str, Any]) -> None:
    """Draw validation by position in what 5x200 leaves, but drop it from train by row number.

    The two differ from the first removed row on, so most of validation is `repeated`.
    """
    pool = draft.pools["train"]
    apart = five_by_200(pool, draft.pictures.labels)
    left = [(number, image_id) for number, image_id in enumerate(pool) if image_id not in apart]
    complete = options["of"]
    size = round(options["size"] * len(pool) / complete)
    drawn = np.random.RandomState(options["seed"]).choice(len(left), size=size, replace=False)
    chosen = {left[position][1]: "validate" for position in drawn}
    dropped = set(drawn.tolist())
    train = {image_id: "train" for number, image_id in left if number not in dropped}
    draft.repeated = chosen.keys() & train.keys()
    test = dict.fromkeys(draft.pools["test"], "test")
    draft.deal((train | chosen | test).items())


def _only(draft: Draft, pattern: str) -> None:
    """Leave out the pictures whose id does not match."""
    draft.deal((i, name if re.search(pattern, i) else None) for i, name in draft.splits().items())
    draft.repeated = {image_id for image_id in draft.repeated if re.search(pattern, image_id)}


def _without_first(draft: Draft, names: Sequence[str]) -> None:
    """Leave out the first picture of each split: published code took it for a header."""
    for name in names:
        draft.pools[name] = draft.pools[name][1:]


RULES: Mapping[str, Callable[[Draft, Any], None]] = {
    "needs": _needs,
    "official": _official,
    "apart": _apart,
    "by_subject": _by_subject,
    "hold_out": _hold_out,
    "rows": _rows,
    "positions": _positions,
    "only": _only,
    "without_first": _without_first,
}
