"""The tables and the card of a set, gathered from its finished chunks."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...contract import ImitateError
from ...files import blake3_file, read_table, to_arrow, write_table
from ...schema import MANIFEST, REJECTS, SOURCES
from ..record import Record, Rejection
from .card import make_card, manifest_facts
from .closing import nothing
from .earlier import TABLES, Parts, Places
from .plan import Job
from .rows import Identity, Row, identity, reject_row, told

if TYPE_CHECKING:
    import pyarrow as pa

Records = Mapping[Identity, Record]


def gather(
    job: Job, parts: Parts, records: Records, places: Places, known: list[Row]
) -> dict[str, Any]:
    """Write the tables of a set, and return its card.

    `records` are those that were to be done, `places` where the work on each lies, and `known` the
    rejects that the listing alone decided. InputError when nothing was prepared.
    """
    import pyarrow as pa

    sources, rows, rejects = [to_arrow(SOURCES, [])], [to_arrow(MANIFEST, [])], list(known)
    boxes = Counter[str]()
    for batch in parts.batches(places):
        sources.append(to_arrow(SOURCES, batch.done))
        rejects += batch.rejects
        for row in batch.rows:
            record = records[identity(row)]
            row.update(told(record, job.assignment.dataset))
            kept = len(row["boxes"])
            boxes.update(kept=kept, dropped=len(record.boxes) - kept)
        if job.with_manifest:
            rows.append(to_arrow(MANIFEST, batch.rows))
    opened = pa.concat_tables(sources).sort_by([("source", "ascending"), ("image_id", "ascending")])
    rejects += _twins(job, opened, records)
    total = len(records) + len(known)
    prepared = total - len(rejects)
    if opened.num_rows != len(records):
        raise ImitateError(f"{len(records)} rows were to be done, {opened.num_rows} are")
    if not prepared:
        raise nothing(rejects, job.plan.listing.dataset)
    manifest = pa.concat_tables(rows).sort_by("key")
    rows.clear()  # of a large archive a second copy of all texts would be most of the memory
    if job.with_manifest and manifest.num_rows != prepared:
        raise ImitateError(f"{total} rows came in, {manifest.num_rows + len(rejects)} went out")
    facts = _write(job, opened, manifest, rejects)
    rejected = Counter(row["reason"] for row in rejects)
    card = make_card(job.plan, name=job.out.name, total=total, rejected=rejected, boxes=boxes)
    files = {name: blake3_file(job.out / name) for name in TABLES if (job.out / name).is_file()}
    return {**card, **facts, "files": files}


def _twins(job: Job, opened: pa.Table, records: Records) -> list[Row]:
    """Return rejects for pictures that got the name of an earlier one: files of equal content."""
    if job.assignment.names == "path":
        return []
    taken: set[str] = set()
    rejects = []
    for row in opened.to_pylist():
        if row["image"] in taken:
            rejection = Rejection(reason="duplicate_name", stage="pixels")
            rejects.append(reject_row(records[identity(row)], rejection))
        elif row["image"]:
            taken.add(row["image"])
    return rejects


def _write(job: Job, opened: pa.Table, manifest: pa.Table, rejects: list[Row]) -> dict[str, Any]:
    write_table(job.out / "sources.parquet", SOURCES, opened)
    rejects.sort(key=lambda row: (row["source"], row["image_id"] or "", row["reason"]))
    write_table(job.out / "rejects.parquet", REJECTS, rejects)
    if not job.with_manifest:
        return {}
    write_table(job.out / "manifest.parquet", MANIFEST, manifest)
    return manifest_facts(manifest)


def sweep(job: Job, parts: Parts) -> int:
    """Remove the PNGs that are no longer of the set, and return how many pictures that were.

    In a folder of loose pictures only those are removed that an earlier run of ours has made.
    """
    images = read_table(job.out / "sources.parquet", SOURCES, ["image"])["image"].to_pylist()
    kept = {name for name in images if name}
    if job.with_manifest:
        manifest = read_table(job.out / "manifest.parquet", MANIFEST, ["mask"])
        kept |= set(manifest["mask"].to_pylist())
        there = [path for kind in ("images", "masks") for path in (job.out / kind).rglob("*.png")]
        surplus = [path for path in there if str(path.relative_to(job.out)) not in kept]
    else:
        made = {row["image"] for number in parts.numbers() for row in parts.done(number)}
        surplus = [job.out / name for name in made - kept if name]
    removed = 0
    for path in surplus:
        removed += path.is_file() and path.relative_to(job.out).parts[0] != "masks"
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # only if it is empty
    return removed
