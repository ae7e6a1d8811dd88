"""NIH ChestX-ray14, as downloaded from the NIH Clinical Center or from Kaggle.

`images_001/images/` to `images_012/images/` or one `images/` with PNG files of 1024 x 1024,
`Data_Entry_2017*.csv` (labels `A|B`, or `No Finding`), the official lists `train_val_list.txt` and
`test_list.txt` (by patient), and `BBox_List_2017*.csv`, whose boxes are in pixels of those PNGs.
Labels keep NIH's own names, which are also those of Open-i's gold standard and of its prompts
(`Effusion`, `Pleural_Thickening`); `No Finding` is a 0 for all 14.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError
from ..download.tables import number, read_csv, read_lines
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import Protocol, load_protocol
from ..record import Box, Listing, Record, Rejection

DATASET = "nih"
LABELS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)
NO_FINDING = "No Finding"
BOX_NAMES = {"Infiltrate": "Infiltration"}  # the boxes' table has a spelling of its own
LISTS = {"train_val_list": "train", "test_list": "test"}
COLUMNS = {
    "image": "Image Index",
    "labels": "Finding Labels",
    "patient": "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}
# the header has commas inside brackets, so a box's four columns have these names
BOX_COLUMNS = ("Bbox [x", "y", "w", "h]")
OLDEST = 120  # years; the first release has ages above 400
FOLDER = re.compile(r"(.*/)?images(_\d{3})?(/images)?")
PACKED = r"(\.gz|\.zip)?"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What the table of entries says of one picture."""

    labels: Mapping[str, float]
    subject: str
    view: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The archive's tables: rows and boxes by image id, the official split, and the files."""

    rows: Mapping[str, _Row]
    boxes: Mapping[str, tuple[Box, ...]]
    official: Mapping[str, str]
    files: tuple[Path, ...]


def list_nih(
    source: Path,
    *,
    protocol: str,
    seed: int,
    split_lists: Path | None = None,
    skip: Sequence[Path] = (),
) -> Listing:
    """List NIH ChestX-ray14 below `source`.

    `clean` and `paper` keep the official test list; `split_lists` is a folder of other lists.

    Raises InputError for a missing table or list and for one with a wrong header or label, and
    UsageError for an unknown protocol.
    """
    rules = load_protocol(DATASET, protocol, lists=split_lists)
    tree = scan(source, skip)
    tables = _read_tables(tree)
    listed = {name: row for name, row in tables.rows.items() if name in tables.official}
    splits = rules.split(
        list(listed),
        subjects={name: row.subject for name, row in listed.items()},
        official={name: tables.official[name] for name in listed},
        labels={name: row.labels for name, row in listed.items()},
        seed=seed,
    )
    records = list(_records(tree, tables, splits, rules))
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(tree.pictures(), tables.files),
        facts=_facts(tables, splits, records, rules),
        notes=rules.notes(splits),
    )


def _read_tables(tree: Tree) -> _Tables:
    entries = tree.find(r"Data_Entry_2017\w*\.csv" + PACKED)
    if entries is None:
        raise InputError(
            "no Data_Entry_2017_v2020.csv",
            where=str(tree.root),
            todo="give the folder of ChestX-ray14 as downloaded, with its tables beside the images",
        )
    boxes = tree.find(r"BBox_List_2017\w*\.csv" + PACKED)
    lists = {_list_file(tree, stem): split for stem, split in LISTS.items()}
    official: dict[str, str] = {}
    for path, split in lists.items():
        for name in map(without_ending, read_lines(path)):
            if official.setdefault(name, split) != split:
                raise InputError("a picture is in both official lists", where=f"{path}: {name}")
    return _Tables(
        rows=_read_entries(entries),
        boxes=_read_boxes(boxes) if boxes else {},
        official=official,
        files=(entries, *lists, *([boxes] if boxes else [])),
    )


def _list_file(tree: Tree, stem: str) -> Path:
    path = tree.find(re.escape(stem) + r"\.txt(\.gz)?")
    if path is None:
        raise InputError(
            f"no {stem}.txt",
            where=str(tree.root),
            todo="download the official list from the NIH, which draws train and test by patient",
        )
    return path


def _read_entries(path: Path) -> dict[str, _Row]:
    rows: dict[str, _Row] = {}
    for cells in read_csv(path, list(COLUMNS.values())):
        row = {name: cells[column].strip() for name, column in COLUMNS.items()}
        patient = number(row["patient"], path=path, column=COLUMNS["patient"])
        known = {"sex": row["sex"], "age": age_in_years(row["age"])}
        rows[without_ending(row["image"])] = _Row(
            labels=_labels(row["labels"], path),
            subject=f"{int(patient):08d}",
            view=row["view"] or None,
            metadata={name: value for name, value in known.items() if value},
        )
    return rows


def _labels(cell: str, path: Path) -> dict[str, float]:
    """Return all 14 labels of a cell `A|B`."""
    found = {name.strip() for name in cell.split("|")}
    if strange := sorted(found - {*LABELS, NO_FINDING}):
        raise InputError(
            f"{strange[0]!r} is not one of the 14 labels or {NO_FINDING}",
            where=f"{path}, column {COLUMNS['labels']}",
        )
    return {name: float(name in found) for name in LABELS}


def age_in_years(cell: str) -> str:
    """Return an age as whole years, or nothing when it is not one that a person reaches.

    The first release writes `058Y`, `006M` or `012D`; the second plain years.
    """
    match = re.fullmatch(r"(\d{1,4})([YMD]?)", cell)
    if match is None:
        return ""
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "D": 365}[match[2]]
    return str(years) if years <= OLDEST else ""


def _read_boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    boxes: defaultdict[str, tuple[Box, ...]] = defaultdict(tuple)
    for row in read_csv(path, ["Image Index", "Finding Label", *BOX_COLUMNS]):
        x, y, w, h = (number(row[name], path=path, column=name) for name in BOX_COLUMNS)
        name = row["Finding Label"].strip()
        box = Box(x=x, y=y, w=w, h=h, label=BOX_NAMES.get(name, name))
        boxes[without_ending(row["Image Index"].strip())] += (box,)
    return dict(boxes)


def _records(
    tree: Tree, tables: _Tables, splits: Mapping[str, str], rules: Protocol
) -> Iterator[Record]:
    seen: set[str] = set()
    for entry in tree.pictures():
        name = without_ending(entry.name)
        reason = _verdict(entry, name, tables, splits) or ("duplicate_name" if name in seen else "")
        seen.add(name)
        if reason:
            rejection = Rejection(reason=reason)
            yield Record(image_id=name, source=entry.path, root=tree.root, rejection=rejection)
            continue
        row = tables.rows[name]
        yield Record(
            image_id=name,
            source=entry.path,
            root=tree.root,
            subject_id=row.subject,
            view=row.view,
            view_source="table" if row.view else "none",
            split=splits[name],
            labels=rules.targets(row.labels),
            label_source=DATASET,
            boxes=tables.boxes.get(name, ()),
            metadata=row.metadata,
        )
    linked = any(FOLDER.fullmatch(link) for link in tree.links)
    for name in sorted({*tables.rows, *tables.official} - seen):
        absent = "link_outside" if linked else "file_missing"
        reason = absent if name in tables.rows else "unlabelled"
        rejection = Rejection(reason=reason)
        source = f"images/{name}.png"
        yield Record(image_id=name, source=source, root=tree.root, rejection=rejection)


def _verdict(entry: Entry, name: str, tables: _Tables, splits: Mapping[str, str]) -> str | None:
    """Return why the tables or the protocol leave a picture out, or None."""
    listed = name in tables.official
    if name not in tables.rows:
        return "unlabelled" if listed else "file_not_listed"
    if not listed:
        return "split_missing"
    if name not in splits:
        return "not_in_protocol"
    return "link_outside" if entry.outside else None


def _facts(
    tables: _Tables, splits: Mapping[str, str], records: Sequence[Record], rules: Protocol
) -> dict[str, Any]:
    reasons = {record.rejection.reason for record in records if record.rejection}
    pairs = [
        (tables.rows[name], box)
        for name, boxes in tables.boxes.items()
        if name in tables.rows
        for box in boxes
    ]
    return {
        "labels": dict.fromkeys(LABELS, "named in Finding Labels, which a program read in reports"),
        "boxes_without_their_label": sum(not row.labels.get(box.label) for row, box in pairs),
        "without_age": sum("age" not in row.metadata for row in tables.rows.values()),
        "protocol": rules.facts(splits, complete=not reasons & {"file_missing", "link_outside"}),
    }
