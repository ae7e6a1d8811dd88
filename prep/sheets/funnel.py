"""What came in, what was left out and why, and what a reader should look at first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...contract import REASONS
from ...page import Fold, Prose, Section, Share, Table
from .prepared import PreparedSet, distinct

EXAMPLES = 5  # rows shown of each reason
KINDS = {"filter": "asked for", "fault": "fault"}
ABSENT = "file_missing"  # never downloaded, which is no fault of the archive


def rejected_of(card: Any, kind: str) -> int:
    """Return how many rows were left out by reasons of a kind; what is not there is no fault."""
    return sum(
        count
        for code, count in card["rejected"].items()
        if REASONS[code].kind == kind and code != ABSENT
    )


def lead(prepared: PreparedSet) -> tuple[Prose, ...]:
    """Return the first sentences of the page: how many rows came through, and whether that is all.

    The rows of the tables themselves are counted, and compared with what the archive listed.
    """
    card = prepared.card
    listed, rows, rejects = card["funnel"][0]["count"], prepared.rows, prepared.rejects.num_rows
    faults = rejected_of(card, "fault")
    first = Prose(text="All {} listed rows are prepared.", counts=(listed,))
    if rejects:
        text = "Prepared: {} of {} listed rows. Left out, each with its reason: {}."
        first = Prose(text=text, counts=(rows, listed, rejects))
    if listed != rows + rejects:
        lost = "{} rows came in and {} are accounted for: imitate verify names what is wrong."
        return (first, Prose(text=lost, counts=(listed, rows + rejects), tone="fault"))
    if not faults:
        return (first, Prose(text="No file is damaged or refused."))
    worst = max((c for c in card["rejected"] if _is_fault(c)), key=lambda c: card["rejected"][c])
    text = f"Faulty: {{}} rows, most often {worst} ({{}}): {REASONS[worst].text}."
    return (first, Prose(text=text, counts=(faults, card["rejected"][worst]), tone="note"))


def headline(prepared: PreparedSet) -> tuple[tuple[str, int], ...]:
    """Return the few numbers at the top of the page."""
    card, manifest = prepared.card, prepared.manifest
    numbers = [
        ("listed", card["funnel"][0]["count"]),
        ("prepared", prepared.rows),
        ("left out as asked", rejected_of(card, "filter")),
        ("faulty", rejected_of(card, "fault")),
    ]
    if card["rejected"].get(ABSENT):
        numbers.append(("not there", card["rejected"][ABSENT]))
    for name, column in (("patients", "subject_id"), ("studies", "study_id")):
        if known := distinct(manifest[column]):
            numbers.append((name, known))
    return tuple(numbers)


def attention_section(prepared: PreparedSet, found: tuple[Prose, ...]) -> Section:
    """Return what deserves a look: remarks of the card, and those `found` in pictures and texts."""
    remarks = (*_remarks(prepared.card), *found)
    calm = Prose(text="Nothing stands out.", tone="quiet")
    return Section(title="Worth a look", blocks=remarks or (calm,))


def funnel_section(prepared: PreparedSet) -> Section:
    """Return the funnel step by step, and examples of what was left out."""
    card = prepared.card
    listed = left = card["funnel"][0]["count"]
    rows: list[tuple[Any, ...]] = []
    for step in card["funnel"][1:-1]:
        left -= step["count"]
        code = step["step"]
        kind = "not there" if code == ABSENT else KINDS[step["kind"]]
        share = Share(part=left, whole=listed)
        rows.append((code, REASONS[code].text, kind, step["count"], left, share))
    if not rows:
        everything = Prose(text="All {} listed rows are prepared.", counts=(listed,))
        return Section(title="Left out", blocks=(everything,))
    table = Table(
        columns=("reason", "what it means", "kind", "rows", "rows left", "left of what was listed"),
        rows=tuple(rows),
    )
    return Section(title="Left out", blocks=(table, *_examples(prepared)))


def _is_fault(code: str) -> bool:
    return REASONS[code].kind == "fault" and code != ABSENT


def _remarks(card: Any) -> Iterator[Prose]:
    if absent := card["listed_but_absent"]:
        text = "A partial archive; pictures listed but not there: {}."
        yield Prose(text=text, counts=(absent,), tone="note")
    for pair, count in (card.get("shared_subjects") or {}).items():
        if count:
            text = f"Patients in both splits of {pair}: {{}}."
            yield Prose(text=text, counts=(count,), tone="note")
    for pair, count in (card.get("shared_pictures") or {}).items():
        if count:
            text = f"Pictures, equal to the pixel, in both splits of {pair}: {{}}."
            yield Prose(text=text, counts=(count,), tone="note")
    if dropped := card["boxes"]["dropped"]:
        text = "Boxes without any area in the prepared picture, dropped: {}."
        yield Prose(text=text, counts=(dropped,), tone="note")
    # an archive may name its patients or files there
    yield from (Prose(text=note, tone="note", private=True) for note in card["notes"])


def _examples(prepared: PreparedSet) -> Iterator[Fold]:
    for step in prepared.card["funnel"][1:-1]:
        code, count = step["step"], step["count"]
        chosen = prepared.rejected(code, EXAMPLES)
        table = Table(
            columns=("source", "image", "study", "stage", "detail"),
            rows=tuple(
                (
                    row["source"],
                    row["image_id"],
                    row["study_id"],
                    row["stage"],
                    row["detail"] or None,
                )
                for row in chosen
            ),
        )
        summary = f"Examples of {code}: {len(chosen)} of {count:,}"
        yield Fold(summary=summary, blocks=(table,), private=True)
