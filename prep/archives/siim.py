"""SIIM-ACR Pneumothorax Segmentation 2019, stage 1 or 2, and the mirror that holds PNG pictures.

Stage 1: `train-rle.csv`, whose second header is `" EncodedPixels"` with a leading blank and whose
negatives are `" -1"`. Stage 2: `stage_2_train.csv` without the blanks. Both have one row a region,
so several rows for some pictures, and lie beside `dicom-images-train/<study>/<series>/<id>.dcm` or
a flat folder of DICOM or PNG files with those names. The mirror (Kaggle, vbookshelf) has
`png_images`, `png_masks`, and a table of names for each of its two folders of stage 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import InputError
from ..download.tables import number, read_csv
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import Protocol, load_protocol
from ..record import Listing, Record, Rejection, Runs

DATASET = "siim"
LABEL = "Pneumothorax"
SIDE = 1024  # rows and columns of every picture of the challenge, which its run lengths count
PACKED = r"\.csv(\.gz|\.zip)?"
STAGE_2, STAGE_1 = "stage_2_train" + PACKED, "(siim-pneumothorax-)?train-rle" + PACKED
MIRROR = ("stage_1_train_images" + PACKED, "stage_1_test_images" + PACKED)
MASKS = "png_masks"  # folder of the mirror
UNLABELLED = re.compile(r"(^|/)(dicom-images-test|stage_2_images|stage_2_test[^/]*)/")
STUDY = re.compile(r"(^|/)dicom-images-[^/]+/([^/]+)/[^/]+/[^/]+$")
NOTE = "SIIM publishes no patients, and its pictures come from NIH ChestX-ray14"


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """What a table tells of a picture: the id of the challenge, and what is marked in it."""

    image_id: str
    mask: Runs | Path | None


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Pictures by file name without ending, and the names in the order of the rows.

    `form` is rle or, for masks that are pictures, png.
    """

    form: str
    paths: tuple[Path, ...]
    pictures: Mapping[str, _Picture]
    rows: Sequence[str]


def list_siim(
    source: Path,
    *,
    protocol: str,
    seed: int,
    skip: Sequence[Path] = (),
    split_lists: Path | None = None,
) -> Listing:
    """List the challenge's labelled pictures below `source`, with their masks.

    A picture is positive when a row marks a region in it; the regions of its rows are joined.
    Raises InputError for missing or damaged tables, UsageError for another protocol.
    """
    rules = load_protocol(DATASET, protocol, lists=split_lists)
    tree = scan(source, skip)
    tables = _read_tables(tree)
    drawn = _split(rules, tables, seed)
    records = list(_records(tree, tables, drawn))
    absent = any(r.rejection and r.rejection.reason == "file_missing" for r in records)
    facts: dict[str, Any] = {
        "form": tables.form,
        "labels": {LABEL: "at least one region is marked"},
        "positive": sum(picture.mask is not None for picture in tables.pictures.values()),
        "protocol": rules.facts(drawn.splits, complete=not absent),
    }
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(tree.pictures(), tables.paths),
        facts=facts,
        notes=tuple(dict.fromkeys((*rules.notes(drawn.splits), NOTE))),
    )


def _read_tables(tree: Tree) -> _Tables:
    runs = tree.find(STAGE_2) or tree.find(STAGE_1)
    if runs is not None:
        return _read_runs(runs)
    names = [path for pattern in MIRROR if (path := tree.find(pattern))]
    if names:
        return _read_mirror(tree, names)
    raise InputError(
        "neither stage_2_train.csv nor train-rle.csv",
        where=str(tree.root),
        todo="give the folder of the challenge: the table and its DICOM or PNG files",
    )


def _read_runs(path: Path) -> _Tables:
    rows: list[str] = []
    regions: dict[str, tuple[str, ...]] = {}
    for row in read_csv(path, ["ImageId", "EncodedPixels"]):
        image_id, runs = row["ImageId"].strip(), row["EncodedPixels"].strip()
        rows.append(image_id)
        regions[image_id] = (*regions.get(image_id, ()), *([] if runs == "-1" else [runs]))
    pictures = {
        image_id: _Picture(
            image_id=image_id,
            mask=Runs(rows=parts, height=SIDE, width=SIDE) if parts else None,
        )
        for image_id, parts in regions.items()
    }
    return _Tables(form="rle", paths=(path,), pictures=pictures, rows=rows)


def _read_mirror(tree: Tree, paths: Sequence[Path]) -> _Tables:
    pictures: dict[str, _Picture] = {}
    for path in paths:
        for row in read_csv(path, ["new_filename", "ImageId", "has_pneumo"]):
            name = row["new_filename"].strip()
            marked = number(row["has_pneumo"], path=path, column="has_pneumo")
            if marked not in (0, 1):
                raise InputError("a has_pneumo is neither 0 nor 1", where=str(path))
            pictures[without_ending(name)] = _Picture(
                image_id=row["ImageId"].strip(),
                mask=path.parent / MASKS / name if marked else None,
            )
    return _Tables(form="png", paths=tuple(paths), pictures=pictures, rows=list(pictures))


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """The split of each file name, and the names outside train that are also trained on."""

    splits: Mapping[str, str]
    repeated: frozenset[str]


def _split(rules: Protocol, tables: _Tables, seed: int) -> _Drawn:
    """Draw the split by the challenge's ids; split lists name the files of the mirror instead."""
    pictures = tables.pictures
    ids = {name: name if rules.lists else picture.image_id for name, picture in pictures.items()}
    rows = [ids[name] for name in tables.rows]
    splits = rules.split(rows, subjects={}, official={}, seed=seed)
    repeated = rules.repeated(rows, subjects={}, official={}, seed=seed)
    return _Drawn(
        splits={name: splits[image_id] for name, image_id in ids.items() if image_id in splits},
        repeated=frozenset(name for name, image_id in ids.items() if image_id in repeated),
    )


def _records(tree: Tree, tables: _Tables, drawn: _Drawn) -> Iterator[Record]:
    seen: set[str] = set()
    for entry in tree.pictures():
        if f"/{MASKS}/" in f"/{entry.path}":
            continue
        name = without_ending(entry.name)
        picture = tables.pictures.get(name)
        reason = "duplicate_name" if name in seen else _verdict(tree, entry, picture)
        if reason is None and name not in drawn.splits:
            reason = "not_in_protocol"
        if picture is None or reason is not None:
            image_id = picture.image_id if picture else name
            yield _reject(tree, image_id, entry.path, reason or "file_not_listed")
        else:
            yield _record(tree, entry, picture, drawn)
        if picture is not None:
            seen.add(name)
    folder = "png_images" if tables.form == "png" else "dicom-images-train"
    for name in drawn.splits.keys() - seen:
        source = f"{folder}/{name}"
        reason = "link_outside" if tree.behind_link(source) else "file_missing"
        yield _reject(tree, tables.pictures[name].image_id, source, reason)


def _reject(tree: Tree, image_id: str, source: str, reason: str) -> Record:
    rejection = Rejection(reason=reason)
    return Record(image_id=image_id, source=source, root=tree.root, rejection=rejection)


def _verdict(tree: Tree, entry: Entry, picture: _Picture | None) -> str | None:
    if picture is None:
        return "unlabelled" if UNLABELLED.search(entry.path) else "file_not_listed"
    if entry.outside:
        return "link_outside"
    if isinstance(picture.mask, Path):
        mask = tree.entries.get(picture.mask.relative_to(tree.root).as_posix())
        return "mask_unreadable" if mask is None or mask.outside else None
    return None


def _record(tree: Tree, entry: Entry, picture: _Picture, drawn: _Drawn) -> Record:
    name = without_ending(entry.name)
    study = STUDY.search(entry.path)
    dicom = re.search(r"\.dcm(\.gz)?$", entry.name, re.IGNORECASE)
    return Record(
        image_id=picture.image_id,
        source=entry.path,
        root=tree.root,
        study_id=study[2] if study else None,
        view_source="header" if dicom else "none",
        split=drawn.splits[name],
        labels={LABEL: float(picture.mask is not None)},
        label_source=DATASET,
        mask=picture.mask,
        metadata={"also": "train"} if name in drawn.repeated else {},
    )
