"""What is to be prepared: the plan that decides a set's bytes, its job, and the effort for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..download.checksums import Checksums
from ..download.tree import readable
from ..pixels.png import PixelOptions
from ..policy import TextPolicy
from ..record import Listing, Record, Rejection
from .chunk import Assignment

PARTS = ".parts"
CARD = "card.json"

Options = Mapping[str, Any]  # a command's options by their names in Python
Policy = TypeVar("Policy", PixelOptions, TextPolicy)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asks of the result; all of it is in the card."""

    pixels: PixelOptions
    views: str = "all"
    text: TextPolicy | None = None
    more: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the resolved options by name."""
        text = asdict(self.text) if self.text else {}
        return {**asdict(self.pixels), "views": self.views, **text, **(self.more or {})}


def pick(policy: type[Policy], options: Options) -> Policy:
    """Return a policy made of those options that are its fields; UsageError for wrong values."""
    return policy(**{f.name: options[f.name] for f in fields(policy) if f.name in options})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides a set: what goes in, and the options; equal plans give equal bytes."""

    listing: Listing
    options: Mapping[str, Any]
    seed: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as the card holds it."""
        listing = self.listing
        return {
            "dataset": listing.dataset,
            "options": dict(self.options),
            "seed": self.seed,
            "inputs": dict(listing.inputs),
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Say, a line each, what the card or plan `other` asks for that this plan does not.

        What the archive holds does not count: a set follows its archive.
        """
        mine = self.as_json()
        lines = [
            f"{name} was {before}, now {now}"
            for name in ("dataset", "seed")
            if (before := other.get(name)) != (now := mine[name])
        ]
        theirs = other.get("options", {})
        for name in sorted({*theirs, *mine["options"]}):
            before, now = theirs.get(name), mine["options"].get(name)
            if before != now:
                lines.append(f"{name} was {before}, now {now}")
        return lines


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How the work is done; nothing of it changes the result."""

    workers: int = 1
    scheduler: str | None = None
    progress: str = "none"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One set to be prepared: its plan, its folder, and what every chunk needs to know.

    `with_manifest` is off for loose pictures, which become PNGs and rejects only. `expected` holds
    the SHA-256 that the archive publishes, by path. Rejects of the reasons in `retry` are redone.
    """

    plan: Plan
    assignment: Assignment
    limit: int | None = None
    with_manifest: bool = True
    expected: Mapping[str, str] = field(default_factory=dict)
    retry: frozenset[str] = frozenset()

    @property
    def out(self) -> Path:
        """Folder of the set."""
        return self.assignment.out

    def records(self) -> tuple[list[Record], list[Record]]:
        """Return the records whose verdict is known already, and those still to be done.

        Both sorted by source. With a limit, only the first that are to be done are taken, and
        nothing that is known to be left out.
        """
        known: list[Record] = []
        todo: list[Record] = []
        for record in sorted(self.plan.listing.records, key=lambda r: (r.source, r.image_id or "")):
            late = record.view_source == "header"
            if record.rejection is None and not (late or self.assignment.views.keeps(record.view)):
                record = replace(record, rejection=Rejection(reason="view_not_selected"))
            (known if record.rejection else todo).append(record)
        return ([], todo[: self.limit]) if self.limit and todo else (known, todo)


def beside(folder: Path) -> Path:
    """Return `folder`, or the first of `folder-2`, `folder-3` … when something is there."""
    number = 1
    path = folder
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def with_checksums(listing: Listing, sums: Checksums) -> Listing:
    """Return a listing whose identity and facts say what the archive's SHA256SUMS say of it."""
    used = [record.source for record in listing.records if record.rejection is None]
    place = listing.reports
    if place is not None and not place.zipped:
        used += [record.report for record in listing.records if isinstance(record.report, str)]
    return replace(
        listing,
        inputs={**listing.inputs, "checksums": sums.digest()},
        facts={**listing.facts, "checksums": sums.facts(list(dict.fromkeys(used)))},
    )


def unusable(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and where, with keys that two images share or that name no file."""
    keys: dict[str, Record] = {}
    for record in records:
        if record.target is not None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", record.key):
            yield "an image id cannot name a file", readable(record.source)
        elif (twin := keys.setdefault(record.key, record)) is not record:
            where = f"{readable(twin.source)} and {readable(record.source)}"
            yield "two images have one key", where
