"""Object-CXR: foreign objects on chest radiographs (JF Healthcare, MIDL 2020), as downloaded.

`train.csv`, `dev.csv` and, on the Kaggle mirror, `test.csv`, with the unpacked folders `train`,
`dev` and `test` of JPEG files that are numbered through. Columns are `image_name` or `image_path`,
and `annotation`: shapes separated by `;`, each a kind and its numbers, 0 a rectangle and 1 an
ellipse (`x1 y1 x2 y2`), 2 a polygon (`x1 y1 … xn yn`); an empty cell is a picture without objects.

A box is the tight one around its shape under every protocol. MGCA's code puts another around a
polygon, centred on the point deepest inside its outline widened by 100 pixels, found to 10 pixels:
that depends on the geometry library's search, so it is not reproduced, and a note says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError
from ..download.tables import read_csv, read_header
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import load_protocol
from ..record import Box, Listing, Record, Rejection, Shape

DATASET = "object-cxr"
LABEL = "Foreign Object"
KINDS = {"0": "rectangle", "1": "ellipse", "2": "polygon"}
PACKED = r"\.csv(\.gz|\.zip)?"
OFFICIAL = {"train": "train", "dev": "validate", "test": "test"}
POLYGONS = "polygons have tight boxes; MGCA's code puts larger ones around them"


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    """What a table tells of a picture; `shapes` is None when they cannot be read."""

    official: str
    shapes: tuple[Shape, ...] | None


def list_object_cxr(
    source: Path,
    *,
    protocol: str,
    seed: int,
    skip: Sequence[Path] = (),
    split_lists: Path | None = None,
) -> Listing:
    """List Object-CXR below `source`, with a box and a part of the mask for each shape.

    Raises InputError for missing or damaged tables, UsageError for another protocol.
    """
    rules = load_protocol(DATASET, protocol, lists=split_lists)
    tree = scan(source, skip)
    paths = {name: path for name in OFFICIAL if (path := tree.find(name + PACKED))}
    if not {"train", "dev"} & paths.keys():
        raise InputError(
            "neither train.csv nor dev.csv",
            where=str(source),
            todo="give the folder that holds both, and train.zip and dev.zip unpacked",
        )
    known = _read_annotations(paths)
    official = {image_id: annotation.official for image_id, annotation in known.items()}
    splits = rules.split(list(known), subjects={}, official=official, seed=seed)
    records = list(_records(tree, known, splits))
    absent = any(r.rejection and r.rejection.reason == "file_missing" for r in records)
    shapes = [shape for annotation in known.values() for shape in annotation.shapes or ()]
    counts = {kind: sum(shape.kind == kind for shape in shapes) for kind in KINDS.values()}
    facts: dict[str, Any] = {
        "labels": {LABEL: "at least one shape"},
        "shapes": counts,
        "protocol": rules.facts(splits, complete=not absent),
    }
    boxes = (POLYGONS,) if protocol == "mgca" and counts["polygon"] else ()
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(tree.pictures(), paths.values()),
        facts=facts,
        notes=(*rules.notes(splits), *boxes),
    )


def _read_annotations(paths: Mapping[str, Path]) -> dict[str, _Annotation]:
    known: dict[str, _Annotation] = {}
    for name, path in paths.items():
        header = read_header(path)
        column = "image_name" if "image_name" in header else "image_path"
        for row in read_csv(path, [column, "annotation"]):
            image_id = without_ending(row[column].strip().rpartition("/")[2])
            if image_id in known:
                raise InputError("a picture is listed twice", where=f"{path}: {image_id}")
            shapes = read_shapes(row["annotation"])
            known[image_id] = _Annotation(official=OFFICIAL[name], shapes=shapes)
    return known


def read_shapes(annotation: str) -> tuple[Shape, ...] | None:
    """Return the shapes of an annotation, none for an empty one; None when it is damaged."""
    shapes = []
    for part in filter(str.strip, annotation.split(";")):
        kind, *numbers = part.split()
        try:
            points = tuple(float(number) for number in numbers)
        except ValueError:
            return None
        enough = len(points) >= 6 if kind == "2" else len(points) == 4
        if (
            kind not in KINDS
            or not enough
            or len(points) % 2
            or not all(map(math.isfinite, points))
        ):
            return None
        shapes.append(Shape(kind=KINDS[kind], points=points))
    return tuple(shapes)


def _records(
    tree: Tree, known: Mapping[str, _Annotation], splits: Mapping[str, str]
) -> Iterator[Record]:
    seen: set[str] = set()
    for entry in tree.pictures():
        image_id = without_ending(entry.name)
        annotation = known.get(image_id)
        reason = "duplicate_name" if image_id in seen else _verdict(entry, annotation)
        if reason is None and image_id not in splits:
            reason = "not_in_protocol"
        if annotation is None or annotation.shapes is None or reason is not None:
            yield _reject(tree, image_id, entry.path, reason or "mask_unreadable")
        else:
            yield _record(tree, entry, annotation.shapes, splits[image_id])
        if annotation is not None:
            seen.add(image_id)
    folders = {split: name for name, split in OFFICIAL.items()}
    for image_id in splits.keys() - seen:
        source = f"{folders[known[image_id].official]}/{image_id}.jpg"
        reason = "link_outside" if tree.behind_link(source) else "file_missing"
        yield _reject(tree, image_id, source, reason)


def _reject(tree: Tree, image_id: str, source: str, reason: str) -> Record:
    detail = "a shape of the annotation" if reason == "mask_unreadable" else ""
    rejection = Rejection(reason=reason, detail=detail)
    return Record(image_id=image_id, source=source, root=tree.root, rejection=rejection)


def _verdict(entry: Entry, annotation: _Annotation | None) -> str | None:
    if annotation is None:
        return "unlabelled" if "/test/" in f"/{entry.path}" else "file_not_listed"
    return "link_outside" if entry.outside else None


def _record(tree: Tree, entry: Entry, shapes: tuple[Shape, ...], split: str) -> Record:
    return Record(
        image_id=without_ending(entry.name),
        source=entry.path,
        root=tree.root,
        split=split,
        labels={LABEL: float(bool(shapes))},
        label_source=DATASET,
        boxes=tuple(_box(shape) for shape in shapes),
        mask=shapes or None,
    )


def _box(shape: Shape) -> Box:
    left, top, right, bottom = shape.bounds
    return Box(x=left, y=top, w=right - left, h=bottom - top, label=LABEL)
