"""The card of a prepared set: how it was made, what was left out, and what it holds."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...contract import REASONS, SPLITS
from ...schema import SCHEMA_VERSION
from ..record import Listing

if TYPE_CHECKING:
    import pyarrow as pa

LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "imagecodecs",
    "spacy",
    "pyarrow",
)


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
        """Say, a line each, where the card or plan `other` differs from this plan."""
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
        if (before := other.get("inputs", {})) != (now := mine["inputs"]):
            counts = f"{before.get('files')} files before, {now['files']} now"
            lines.append(f"the archive has changed: {counts}")
        return lines


def funnel(total: int, rejected: Mapping[str, int], prepared: int) -> list[dict[str, Any]]:
    """Return what came in, what each reason left out, in the order of REASONS, and what is left."""
    steps: list[dict[str, Any]] = [{"step": "listed", "kind": "in", "count": total}]
    steps += [
        {"step": code, "kind": reason.kind, "count": rejected[code]}
        for code, reason in REASONS.items()
        if rejected.get(code)
    ]
    return [*steps, {"step": "prepared", "kind": "out", "count": prepared}]


def make_card(
    plan: Plan, *, name: str, total: int, rejected: Mapping[str, int], boxes: Mapping[str, int]
) -> dict[str, Any]:
    """Return the card without what the manifest tells and without the facts of this run."""
    listing = plan.listing
    missing = sum(
        record.rejection is not None and record.rejection.reason == "file_missing"
        for record in listing.records
    )
    prepared = total - sum(rejected.values())
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "access": listing.access,
        **plan.as_json(),
        "archive": dict(listing.facts),
        "notes": list(listing.notes),
        "partial": missing > 0,
        "listed_but_absent": missing,
        "funnel": funnel(total, rejected, prepared),
        "rows": prepared,
        "rejected": dict(sorted(rejected.items())),
        "boxes": {"kept": boxes.get("kept", 0), "dropped": boxes.get("dropped", 0)},
        "versions": versions(),
    }


def manifest_facts(manifest: pa.Table) -> dict[str, Any]:
    """Return how many rows of a manifest have which split, view, labels and kind of text."""
    columns = ("split", "view", "view_source", "label_source", "section_source", "norm")
    counts = {}
    for name in columns:
        values = Counter(str(value) for value in manifest[name].to_pylist())
        counts[name] = dict(sorted(values.items()))
    pairs = zip(manifest["subject_id"].to_pylist(), manifest["split"].to_pylist(), strict=True)
    return {"counts": counts, "shared_subjects": _shared_subjects(set(pairs))}


def _shared_subjects(pairs: set[tuple[str | None, str]]) -> dict[str, int] | None:
    """Return how many subjects two splits share, or None when no subject is known."""
    subjects = {split: {s for s, of in pairs if of == split and s} for split in SPLITS}
    if not any(subjects.values()):
        return None
    return {
        f"{one}-{other}": len(subjects[one] & subjects[other])
        for one, other in itertools.combinations(SPLITS, 2)
    }


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that make its bytes."""
    found = {"imitate": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what the card says of the machine."""
    return {"platform": platform.platform(), "cores": os.cpu_count()}


def funnel_text(card: Mapping[str, Any]) -> str:
    """Return the funnel as a table, with what each reason means."""
    lines = []
    width = max(len(step["step"]) for step in card["funnel"]) + 2
    for step in card["funnel"]:
        reason = REASONS.get(step["step"])
        count = f"-{step['count']}" if reason else str(step["count"])
        name = f"  {step['step']}" if reason else step["step"]
        meaning = f"  {reason.text}" if reason else _splits_text(card, step["step"])
        lines.append(f"{name:<{width}} {count:>9}{meaning}".rstrip())
    return "\n".join(lines)


def _splits_text(card: Mapping[str, Any], step: str) -> str:
    splits = card.get("counts", {}).get("split", {})
    if step != "prepared" or not splits:
        return ""
    return "  " + ", ".join(f"{name} {splits.get(name, 0)}" for name in SPLITS)
