"""The words at the end of a run: funnel, remarks, closing sentence; or why there is nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import REASONS, InputError
from ...options import reasons_text, say
from ..sheets.report import REPORT
from .card import funnel_text
from .plan import Job
from .rows import Row

SHARED = {"subjects": "patients", "pictures": "pictures, equal to the pixel,"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished set holds, as its card says; `fresh` unless an earlier run had made it."""

    card: dict[str, Any]
    path: Path
    seconds: float
    fresh: bool

    @property
    def faults(self) -> int:
        """Rows that are damaged or refused; what was never downloaded is counted apart."""
        rejected = self.card["rejected"]
        return sum(
            count
            for code, count in rejected.items()
            if REASONS[code].kind == "fault" and code != "file_missing"
        )

    @property
    def present(self) -> int:
        """Rows whose picture is there."""
        total: int = self.card["rows"] + sum(self.card["rejected"].values())
        return total - int(self.card["rejected"].get("file_missing", 0))


def closing_text(outcome: Outcome) -> str:
    """Return the funnel, remarks, and the closing sentence of a finished set."""
    card = outcome.card
    lines = [funnel_text(card), *(f"note: {note}" for note in card["notes"])]
    if card["partial"]:
        lines.append(
            f"note: a partial archive: {card['listed_but_absent']} listed but not there; "
            "they do not count against --max-failures"
        )
    for what in ("subjects", "pictures"):
        for pair, count in (card.get(f"shared_{what}") or {}).items():
            if count:
                lines.append(f"note: {count} {SHARED[what]} are in both splits of {pair}")
    run = card["run"]
    if outcome.fresh and run["kept"]:
        lines.append(f"note: {run['kept']} rows were finished by an earlier run")
    if outcome.fresh and run["removed"]:
        lines.append(f"note: {run['removed']} pictures left the set, as they left the archive")
    done = "prepared" if outcome.fresh else "already prepared:"
    total = card["rows"] + sum(card["rejected"].values())
    lines.append(
        f"{done} {card['rows']} of {total} rows in {outcome.path}; "
        f"left out: {reasons_text(card['rejected'])}"
    )
    return "\n".join(lines)


def nothing(rejects: Sequence[Row], dataset: str) -> InputError:
    """Return the error of an archive of which nothing could be prepared."""
    counts = Counter(row["reason"] for row in rejects)
    first = next((row for row in rejects if REASONS[row["reason"]].kind == "fault"), None)
    example = f"; the first fault: {first['reason']} of {first['source']}" if first else ""
    why = "; ".join(f"{code}: {REASONS[code].text}" for code, _ in counts.most_common(2))
    return InputError(
        f"nothing of {dataset} could be prepared: {reasons_text(counts)}{example}",
        todo=f"{why or 'the archive lists no picture'}; nothing was written",
    )


def say_plan(job: Job, *, as_json: bool) -> None:
    """Print what a dry run would do."""
    known, todo = job.records()
    rejected = Counter(record.rejection.reason for record in known if record.rejection)
    result = {
        "dataset": job.plan.listing.dataset,
        "in": len(known) + len(todo),
        "to_do": len(todo),
        "rejected": dict(sorted(rejected.items())),
        "path": str(job.out),
    }
    sentence = (
        f"would prepare up to {len(todo)} of {len(known) + len(todo)} rows in {job.out}; "
        f"left out by the listing alone: {reasons_text(rejected)}"
    )
    say(result, sentence, as_json=as_json)


def say_outcome(outcome: Outcome, *, as_json: bool, is_set: bool) -> None:
    """Print what a run has done."""
    card = outcome.card
    result = {
        "dataset": card["dataset"],
        "in": card["rows"] + sum(card["rejected"].values()),
        "out": card["rows"],
        "rejected": card["rejected"],
        "path": str(outcome.path),
        "seconds": round(outcome.seconds, 1),
    }
    text = closing_text(outcome)
    if is_set:
        text += f"\nlook at it: {outcome.path / REPORT}\nnext: imitate shard {card['name']}"
    say(result, text, as_json=as_json)
