"""The card of a prepared set: how it was made, what was left out, and what it holds."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...contract import REASONS, SPLITS
from ...schema import SCHEMA_VERSION
from .plan import Plan

if TYPE_CHECKING:
    import pyarrow as pa

LIBRARIES = (
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "imagecodecs",
    "spacy",
    "pyarrow",
)


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
    """Return how many rows have which split, view, labels and kind of text, and what splits share.

    Pictures are the same when their pixels are, after preparation.
    """
    columns = ("split", "view", "view_source", "label_source", "section_source", "norm")
    counts = {}
    for name in columns:
        values = Counter(str(value) for value in manifest[name].to_pylist())
        counts[name] = dict(sorted(values.items()))
    counts["mask"] = {"marked": len(manifest) - manifest["mask"].null_count}
    return {
        "counts": counts,
        "shared_subjects": _shared(manifest, "subject_id"),
        "shared_pictures": _shared(manifest, "pixel_blake3"),
    }


def _shared(manifest: pa.Table, column: str) -> dict[str, int] | None:
    """Return how many values of a column two splits share, or None when it is empty."""
    pairs = set(zip(manifest[column].to_pylist(), manifest["split"].to_pylist(), strict=True))
    values = {split: {value for value, of in pairs if of == split and value} for split in SPLITS}
    if not any(values.values()):
        return None
    return {
        f"{one}-{other}": len(values[one] & values[other])
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
