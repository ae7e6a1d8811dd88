"""What follows from the predictions of evaluations beside each other, written into their folders.

runs/<name>/eval/<dataset>/
    samples.parquet   what the archive tells of the test films beside their pixels
    summary.csv       draws and seeds of one encoder together
    slices.csv        the encoder in parts of the test split
    comparisons.csv   the encoders and controls of the last call, two by two
    statistics.json   all of these, and the runs that were compared
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...contract import InputError
from ...files import digest_of, read_json, read_rows, write_json, write_table, write_text
from ...schema import COMPARISONS, SAMPLES, SLICES, SUMMARY, Table
from ..table import CONTROLS
from ..tasks.task import SEED
from ..testset import TestSet
from .comparison import compare, groups_of, summary_rows
from .kept import Kept
from .samples import Told, read_told, sample_rows, told_of
from .slices import slice_rows

FILE = "statistics.json"
TABLES = {"summary": SUMMARY, "slices": SLICES, "comparisons": COMPARISONS}
Numbers = dict[str, list[dict[str, Any]]]


def write_statistics(folders: Sequence[Path], tests: TestSet) -> list[dict[str, Any]]:
    """Write the statistics of evaluations of one set beside each other; return each one's content.

    Nothing is computed again when neither predictions nor company have changed.
    """
    kept = [Kept.open(folder) for folder in folders]
    company = [each.folder.parents[1].name for each in kept]
    of = digest_of([__version__, SEED, company, [each.digest for each in kept]])
    documents = []
    for each in kept:
        known: dict[str, Any] = {}
        with contextlib.suppress(InputError):  # missing or damaged, it is computed anew
            known = read_json(each.folder / FILE)
        if known.get("of") != of:
            told = _write_told(each, tests)
            known = {"of": of, "company": company} | statistics_of(each, kept, told)
            for name, table in TABLES.items():
                write_text(each.folder / f"{name}.csv", csv_of(table, known[name]))
            write_json(each.folder / FILE, known)
        documents.append(known)
    return documents


def _write_told(kept: Kept, tests: TestSet) -> dict[str, Told]:
    """Write what is told of the samples that were scored, and return it by key."""
    keys = np.array(tests.of("key", tests.test), dtype=str)
    scored_N = np.isin(keys, kept.predictions["key"].to_pylist())
    told = read_told(tests.shards, tests.test.ordinals[scored_N])
    rows = sample_rows(keys[scored_N].tolist(), told)
    write_table(kept.folder / "samples.parquet", SAMPLES, rows)
    return told_of(rows)


def statistics_of(kept: Kept, company: Sequence[Kept], told: Mapping[str, Told]) -> Numbers:
    """Return the rows of each of TABLES that follow from the predictions of an evaluation."""
    groups = [group for each in company for group in _groups(each)]
    own = _groups(kept)
    dataset = kept.document["dataset"]
    slices = [
        row
        for cell, answers in kept.answered
        if cell["encoder"] not in CONTROLS
        for row in slice_rows(answers, told, {"dataset": dataset} | dict(cell), seed=SEED)
    ]
    found = {
        "summary": [row for group in own for row in summary_rows(group, seed=SEED)],
        "slices": slices,
        "comparisons": compare(groups, seed=SEED),
    }
    return {name: [_only(TABLES[name], row) for row in rows] for name, rows in found.items()}


def again(folder: Path) -> tuple[dict[str, Any], Numbers | None]:
    """Return what statistics.json says, and the same computed anew from the predictions.

    None where the evaluation of another run that was compared is not here any more. Raises
    InputError when a file is missing or damaged.
    """
    kept = Kept.open(folder)
    known = read_json(folder / FILE)
    rows = read_rows(folder / "samples.parquet", SAMPLES)
    try:
        places = [folder.parents[2] / name / "eval" / folder.name for name in known["company"]]
    except (KeyError, TypeError):
        raise InputError("a field is missing", where=str(folder / FILE)) from None
    if not all((place / "results.json").is_file() for place in places):
        return known, None
    return known, statistics_of(kept, [Kept.open(place) for place in places], told_of(rows))


def csv_of(table: Table, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of a table as csv; an empty field is a missing number."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, table.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _groups(kept: Kept) -> Any:
    encoder = kept.document["encoder"]["name"]
    return groups_of(kept.document["dataset"], encoder, kept.evidence)


def _only(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in table.names}
