"""CheXpert (v1.0 and v1.0-small), CheXpert Plus, and the later test set of CheXpert.

`train.csv` and `valid.csv` with `train/` and `valid/patientN/studyN/viewN_frontal.jpg`, in one
folder or in the batches in which Stanford AIMI serves them. Labels of train were read in the
reports by a program (Irvin et al., AAAI 2019), those of valid and test are radiologists'.
`test_labels.csv` or `groundtruth.csv` (CheXlocalize, Saporta et al. 2022) label `test/`.
CheXpert Plus (Chambon et al. 2024, arXiv 2405.19538) adds `df_chexpert_plus_*.csv` with reports,
PNG or DICOM files in the same folders, and `report_fixed.json` with the labels of CheXbert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...contract import InputError, UsageError
from ..download.chexpert_plus import Report, plus_labels, plus_reports
from ..download.tables import marks, person, read_csv
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import Protocol, load_protocol
from ..protocols.retrieval import FIVE_BY_200, five_by_200
from ..record import Listing, Record, Rejection

DATASET = "chexpert"
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
PACKED = r"\.csv(\.gz|\.zip)?"
FILM = re.compile(r"(?:(train|valid|test)/)?((patient\d+)/(study\d+)/view\d+_(\w+))$")
SPLITS = {"train": "train", "valid": "validate", "test": "test"}
PLUS = r"df_chexpert_plus_\d+" + PACKED
FRONTAL = ("AP", "PA")


@dataclass(frozen=True, kw_only=True)
class _Film:
    """What a table says of one film; `name` is its path below the split's folder."""

    image_id: str
    name: str
    subject: str
    study: str
    split: str
    view: str
    labels: Mapping[str, float] = field(default_factory=dict)
    label_source: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """All films by their name, in the order of the tables; reports by study; the files read."""

    films: Mapping[str, _Film]
    reports: Mapping[str, Report]
    files: Mapping[str, Path]


def list_chexpert(
    source: Path, *, protocol: str, reports: Path | None, seed: int, skip: Sequence[Path] = ()
) -> Listing:
    """List CheXpert or CheXpert Plus below `source`; `facts` say whether reports are there.

    `reports` is the csv of CheXpert Plus, else found below `source`. Raises InputError for missing
    or damaged tables, UsageError for an unknown protocol or DICOM and pictures together.
    """
    rules = load_protocol(DATASET, protocol)
    tree = scan(source, skip)
    pictures = tree.pictures()
    _check_form(pictures, source)
    tables = _read_tables(tree, pictures, reports)
    films = list(tables.films.values())
    asked: dict[str, Any] = {
        "ids": [film.image_id for film in films],
        "subjects": {film.image_id: film.subject for film in films},
        "official": {film.image_id: film.split for film in films},
        "labels": {film.image_id: film.labels for film in films},
        "seed": seed,
    }
    draw = _Draw(
        rules=rules,
        splits=rules.split(**asked),
        repeated=rules.repeated(**asked),
        alone=five_by_200([f.image_id for f in films if f.split == "train"], asked["labels"]),
    )
    records = list(_records(tree, pictures, tables, draw))
    missing = any(r.rejection and r.rejection.reason == "file_missing" for r in records)
    complete = not missing and {"train", "valid"} <= tables.files.keys()
    return Listing(
        dataset=DATASET,
        access="credentialed",
        records=records,
        inputs=inputs_digest(pictures, tables.files.values()),
        facts={
            "form": "chexpert" if tables.files.keys() & {"train", "valid"} else "chexpert-plus",
            "tables": {kind: path.name for kind, path in sorted(tables.files.items())},
            "reports": bool(tables.reports),
            "protocol": rules.facts(draw.splits, complete=complete),
        },
        notes=(*rules.notes(draw.splits), *_notes(tables)),
    )


def _notes(tables: _Tables) -> tuple[str, ...]:
    without = sum(film.study not in tables.reports for film in tables.films.values())
    if not tables.reports or not without:
        return ()
    return (f"{without} films have no report, as the test set; --keep-image-only keeps them",)


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """A protocol and the split that it draws, by image id, and the films of 5x200."""

    rules: Protocol
    splits: Mapping[str, str]
    repeated: frozenset[str]
    alone: Mapping[str, str]


def _check_form(pictures: Sequence[Entry], source: Path) -> None:
    dicom = [bool(re.search(r"\.dcm(\.gz)?$", entry.name, re.IGNORECASE)) for entry in pictures]
    if any(dicom) and not all(dicom):
        raise UsageError(
            "both DICOM files and JPG or PNG pictures lie here",
            where=str(source),
            todo="give the folder of one of them; --reports may name the csv elsewhere",
        )


def _read_tables(tree: Tree, pictures: Sequence[Entry], reports: Path | None) -> _Tables:
    patterns = {
        "train": r"train" + PACKED,
        "valid": r"valid" + PACKED,
        "test": r"(test|test_labels|groundtruth)" + PACKED,
        "plus": PLUS,
        "chexbert": r"report_fixed\.json(\.gz)?",
    }
    found = {kind: path for kind, name in patterns.items() if (path := tree.find(name))}
    files = {**found, **({"plus": reports} if reports else {})}
    if not files.keys() & {"train", "valid", "plus"}:
        raise InputError(
            "neither train.csv nor valid.csv of CheXpert, nor the csv of CheXpert Plus",
            where=str(tree.root),
            todo="give the folder that holds them as downloaded, such as CheXpert-v1.0",
        )
    films = list(_films(files, pictures))
    by_name = {film.name: film for film in films}
    if len(by_name) < len(films):
        raise InputError("a film is listed twice", where=str(tree.root))
    told = plus_reports(files["plus"]) if "plus" in files else {}
    return _Tables(films=by_name, reports=told, files=files)


def _films(files: Mapping[str, Path], pictures: Sequence[Entry]) -> Iterator[_Film]:
    """Yield the films of every table; CheXpert's own go before those of CheXpert Plus."""
    for kind in ("train", "valid"):
        if kind in files:
            yield from _listed(files[kind], "chexpert" if kind == "train" else "radiologists")
    if not files.keys() & {"train", "valid"}:
        labels = plus_labels(files["chexbert"], LABELS) if "chexbert" in files else {}
        yield from _plus_films(files["plus"], labels)
    if "test" in files:
        yield from _test_films(files["test"], pictures)


def _listed(path: Path, label_source: str) -> Iterator[_Film]:
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
    for row in read_csv(path, columns):
        yield _film(
            row["Path"],
            path=path,
            view=_view(row["Frontal/Lateral"], row["AP/PA"]),
            labels=marks(row, LABELS, path=path),
            label_source=label_source,
            metadata=person(sex=row["Sex"], age=row["Age"]),
        )


def _plus_films(path: Path, labels: Mapping[str, dict[str, float]]) -> Iterator[_Film]:
    for row in read_csv(path, ["path_to_image", "frontal_lateral", "ap_pa", "sex", "age"]):
        told = labels.get(row["path_to_image"])
        yield _film(
            row["path_to_image"],
            path=path,
            view=_view(row["frontal_lateral"], row["ap_pa"]),
            labels=told or {},
            label_source="chexbert" if told else None,
            metadata=person(sex=row["sex"], age=row["age"]),
        )


def _test_films(path: Path, pictures: Sequence[Entry]) -> Iterator[_Film]:
    """Yield the films of the test set; a table by study labels all films of it."""
    on_disk: dict[str, list[str]] = {}
    for entry in pictures:
        if match := FILM.search(without_ending(entry.path)):
            on_disk.setdefault(f"{match[3]}/{match[4]}", []).append(match[2])
    for row in read_csv(path, FIVE):
        study = "/".join(row.get("Study", "").split("/")[-2:])
        names = [row["Path"]] if "Path" in row else on_disk.get(study, [f"{study}/view1_frontal"])
        for name in names:
            yield _film(
                f"test/{name}",
                path=path,
                view=None,
                labels=marks(row, [label for label in LABELS if label in row], path=path),
                label_source="radiologists",
                metadata={},
            )


def _film(
    place: str,
    *,
    path: Path,
    view: str | None,
    labels: Mapping[str, float],
    label_source: str | None,
    metadata: Mapping[str, str],
) -> _Film:
    """Return the film that a table names by its path; the view is else told by its file name."""
    match = FILM.search(without_ending(place))
    if match is None:
        raise InputError("a path is not train|valid|test/patientN/studyN/viewN_…", where=str(path))
    folder = match[1] or "test"
    return _Film(
        image_id=f"{folder}/{match[2]}",
        name=match[2],
        subject=match[3],
        study=f"{match[3]}/{match[4]}",
        split=SPLITS[folder],
        view=view or match[5].upper(),
        labels=labels,
        label_source=label_source,
        metadata=metadata,
    )


def _view(side: str, projection: str) -> str | None:
    """Return AP or PA of a frontal film where it is told, and otherwise FRONTAL or LATERAL."""
    projection = projection.strip().upper()
    frontal = side.strip().upper() == "FRONTAL"
    return projection if frontal and projection in FRONTAL else side.strip().upper()


def _records(
    tree: Tree, pictures: Sequence[Entry], tables: _Tables, draw: _Draw
) -> Iterator[Record]:
    on_disk: dict[str, Entry] = {}
    for entry in pictures:
        match = FILM.search(without_ending(entry.path))
        name = match[2] if match else ""
        if name not in tables.films:
            unlabelled = match is not None and match[1] == "test"
            yield _left_out(tree, entry, "unlabelled" if unlabelled else "file_not_listed")
        elif on_disk.setdefault(name, entry) is not entry:
            yield _left_out(tree, entry, "duplicate_name")
    for name, film in tables.films.items():
        yield _record(tree, on_disk.get(name), film, tables, draw)


def _left_out(tree: Tree, entry: Entry, reason: str) -> Record:
    image_id = without_ending(entry.path)
    rejection = Rejection(reason=reason)
    return Record(image_id=image_id, source=entry.path, root=tree.root, rejection=rejection)


def _record(tree: Tree, entry: Entry | None, film: _Film, tables: _Tables, draw: _Draw) -> Record:
    also = {"also": "train"} if film.image_id in draw.repeated else {}
    if film.image_id in draw.alone:
        also[FIVE_BY_200] = draw.alone[film.image_id]
    source = entry.path if entry else f"{film.image_id}.jpg"
    return Record(
        image_id=film.image_id,
        source=source,
        root=tree.root,
        study_id=film.study,
        subject_id=film.subject,
        view=film.view,
        view_source="table",
        split=draw.splits.get(film.image_id, ""),
        report=tables.reports.get(film.study),
        labels=draw.rules.targets(film.labels) if film.label_source else {},
        label_source=film.label_source,
        metadata={**film.metadata, **also},
        rejection=_rejection(tree, entry, source, film.image_id in draw.splits),
    )


def _rejection(tree: Tree, entry: Entry | None, source: str, in_protocol: bool) -> Rejection | None:
    if entry is None:
        linked = tree.behind_link(source)
        return Rejection(reason="link_outside" if linked else "file_missing")
    if entry.outside:
        return Rejection(reason="link_outside")
    return None if in_protocol else Rejection(reason="not_in_protocol")
