"""RSNA Pneumonia Detection Challenge 2018, stage 2, as downloaded from Kaggle.

`stage_2_train_images/<patientId>.dcm`, `stage_2_train_labels.csv` (one row a box, empty boxes for
Target 0), `stage_2_detailed_class_info.csv`, `stage_2_test_images/` without labels. Kaggle's
patientId names a picture, not a patient: the mapping that RSNA publishes (`subset_img_id` ->
`img_id`) leads to the NIH ChestX-ray14 picture, whose name begins with the patient.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...contract import InputError
from ..download.tables import number, read_csv
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import load_protocol
from ..record import Box, Listing, Record, Rejection

DATASET = "rsna"
LABEL = "Pneumonia"  # Target: at least one box, drawn where a radiologist saw an opacity
TEST_FOLDER = "stage_2_test_images"
PACKED = r"\.csv(\.gz|\.zip)?"


def list_rsna(
    source: Path,
    *,
    protocol: str,
    mapping: Path | None,
    seed: int,
    skip: Sequence[Path] = (),
    split_lists: Path | None = None,
) -> Listing:
    """List RSNA stage 2 below `source`.

    `clean` splits by subject, 60/20/20 from `seed`, where a mapping tells the subjects, else by
    picture; the others as published, or as `split_lists` say. Raises InputError for missing files
    and UsageError for another protocol.
    """
    rules = load_protocol(DATASET, protocol, lists=split_lists)
    tree = scan(source, skip)
    labels = tree.find("stage_2_train_labels" + PACKED)
    if labels is None:
        raise InputError(
            "no stage_2_train_labels.csv",
            where=str(source),
            todo="give the folder of the challenge's stage 2 as downloaded from Kaggle",
        )
    boxes = _boxes(labels)
    subjects = read_mapping(mapping) if mapping else {}
    targets = {image_id: {LABEL: float(bool(found))} for image_id, found in boxes.items()}
    splits = rules.split(sorted(boxes), subjects=subjects, official={}, seed=seed, labels=targets)
    records = list(_records(tree, boxes, subjects, splits))
    classes = tree.find("stage_2_detailed_class_info" + PACKED)
    tables = [path for path in (labels, classes, mapping) if path]
    by_picture = () if subjects else ("no --mapping: splits are by picture, not by patient",)
    absent = any(r.rejection and r.rejection.reason == "file_missing" for r in records)
    facts = {
        **_facts(boxes, subjects, classes),
        "protocol": rules.facts(splits, complete=not absent),
    }
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(tree.pictures(), tables),
        facts=facts,
        notes=(*rules.notes(splits), *by_picture),
    )


def _boxes(path: Path) -> dict[str, tuple[Box, ...]]:
    """Return the boxes of every labelled picture; none means Target 0."""
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    boxes: dict[str, tuple[Box, ...]] = {}
    for row in read_csv(path, columns):
        before = boxes.setdefault(row["patientId"], ())
        target = number(row["Target"], path=path, column="Target")
        if target not in (0, 1):
            raise InputError("a Target is neither 0 nor 1", where=str(path))
        if target == 1:
            x, y, w, h = (number(row[name], path=path, column=name) for name in columns[1:5])
            boxes[row["patientId"]] = (*before, Box(x=x, y=y, w=w, h=h, label=LABEL))
    return boxes


def read_mapping(path: Path) -> dict[str, str]:
    """Return the NIH patient of each picture, from RSNA's mapping as JSON or csv.

    Raises InputError when the file is missing, damaged or lacks `subset_img_id` or `img_id`.
    """
    columns = ["subset_img_id", "img_id"]
    rows = _json_rows(path, columns) if path.suffix == ".json" else read_csv(path, columns)
    return {row["subset_img_id"]: row["img_id"].partition("_")[0] for row in rows}


def _json_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        rows = json.loads(path.read_bytes())
        return [{name: str(row[name]) for name in columns} for row in rows]
    except FileNotFoundError:
        raise InputError("mapping not found", where=str(path)) from None
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(
            f"not a list of objects with {' and '.join(columns)}", where=str(path)
        ) from None


def _facts(
    boxes: Mapping[str, tuple[Box, ...]], subjects: Mapping[str, str], classes: Path | None
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "labels": {LABEL: "Target of stage_2_train_labels.csv: at least one box"},
        "without_subject": sum(image_id not in subjects for image_id in boxes),
    }
    if classes:
        rows = read_csv(classes, ["patientId", "class"])
        facts["classes"] = dict(Counter({r["patientId"]: r["class"] for r in rows}.values()))
    return facts


def _records(
    tree: Tree,
    boxes: Mapping[str, tuple[Box, ...]],
    subjects: Mapping[str, str],
    splits: Mapping[str, str],
) -> Iterator[Record]:
    seen: set[str] = set()
    for entry in tree.pictures():
        image_id = without_ending(entry.name)
        reason = _verdict(entry, image_id, boxes, splits, seen)
        if reason:
            rejection = Rejection(reason=reason)
            yield Record(image_id=image_id, source=entry.path, root=tree.root, rejection=rejection)
            continue
        seen.add(image_id)
        dicom = re.search(r"\.dcm(\.gz)?$", entry.name, re.IGNORECASE)
        yield Record(
            image_id=image_id,
            source=entry.path,
            root=tree.root,
            subject_id=subjects.get(image_id),
            view_source="header" if dicom else "none",
            split=splits[image_id],
            labels={LABEL: float(bool(boxes[image_id]))},
            label_source=DATASET,
            boxes=boxes[image_id],
        )
    for image_id in splits.keys() - seen:
        source = f"stage_2_train_images/{image_id}.dcm"
        reason = "link_outside" if tree.behind_link(source) else "file_missing"
        rejection = Rejection(reason=reason)
        yield Record(image_id=image_id, source=source, root=tree.root, rejection=rejection)


def _verdict(
    entry: Entry,
    image_id: str,
    boxes: Mapping[str, object],
    splits: Mapping[str, str],
    seen: set[str],
) -> str | None:
    if f"/{TEST_FOLDER}/" in f"/{entry.path}":
        return "unlabelled"
    if image_id not in boxes:
        return "file_not_listed"
    if image_id not in splits:
        return "not_in_protocol"
    if image_id in seen:
        return "duplicate_name"
    return "link_outside" if entry.outside else None
