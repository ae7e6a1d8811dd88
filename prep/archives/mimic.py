"""MIMIC-CXR (DICOM) and MIMIC-CXR-JPG, in the layout in which PhysioNet hands them out.

Sources: physionet.org/content/mimic-cxr/2.1.0 (files/pXX/pXXXXXXXX/sXXXXXXXX/<dicom_id>.dcm,
cxr-record-list, mimic-cxr-reports.zip) and physionet.org/content/mimic-cxr-jpg/2.1.0 (the same tree
with .jpg, and mimic-cxr-2.0.0-metadata, -split and -chexpert; their names keep 2.0.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...contract import SPLITS, InputError, UsageError
from ..download.reports import Reports, find_reports
from ..download.tables import marks, read_csv
from ..download.tree import Entry, Tree, inputs_digest, scan, shallow, without_ending
from ..record import RADIOLOGIST, Listing, Record, Rejection

DATASET = "mimic"
REPORT_NAME = r"s(\d{8})\.txt"
REPORT_ZIP = "mimic-cxr-reports.zip"
DICOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
RELEASE = r"mimic-cxr-2\.\d+\.\d+"  # 2.1.0 still carries tables named 2.0.0
TABLES = {
    "records": r"cxr-record-list\.csv(\.gz)?",
    "metadata": RELEASE + r"-metadata\.csv(\.gz)?",
    "split": RELEASE + r"-split\.csv(\.gz)?",
    "chexpert": RELEASE + r"-chexpert\.csv(\.gz)?",
    "radiologist": RELEASE + r"-test-set-labeled\.csv(\.gz)?",
}
IDS = ("dicom_id", "subject_id", "study_id")
VIEW_WORDS = {"AP": "AP", "PA": "PA", "LAT": "LATERAL", "LATERAL": "LATERAL"}

Form = Literal["dicom", "jpg"]
Labels = Mapping[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labels by study: the automatic ones, and a radiologist's for part of the test split."""

    automatic: Labels
    radiologist: Labels

    def of(self, study: str, split: str) -> tuple[dict[str, float], str | None]:
        """Return a study's labels, a radiologist's beside the automatic ones, and who made them."""
        found = self.automatic.get(study, {})
        read = self.radiologist.get(study, {}) if split == "test" else {}
        sources = {"chexpert": found, "radiologist-2.1.0": read}
        beside = {f"{name}{RADIOLOGIST}": value for name, value in read.items()}
        return found | beside, " + ".join(name for name in sources if sources[name]) or None


def list_mimic(
    source: Path,
    *,
    reports: Path | None,
    tables: Path | None,
    reports_needed: bool = True,
    skip: Sequence[Path] = (),
) -> Listing:
    """List MIMIC-CXR or MIMIC-CXR-JPG below `source`; `facts` say which of the two it is.

    The record list (or the metadata of the JPG release) says which pictures exist; the split is
    the official one. Raises InputError when pictures, reports or tables are missing, UsageError
    when both forms are mixed below `source`.
    """
    tree = scan(source, skip)
    pictures = tree.pictures()
    form = _form(pictures, source)
    texts = find_reports(tree, reports, REPORT_NAME, REPORT_ZIP)
    if reports_needed and not texts:
        raise InputError(
            "no reports",
            where=str(reports or source),
            todo=f"name {REPORT_ZIP} or its folder with --reports; it is part of "
            "physionet.org/content/mimic-cxr",
        )
    places = [tree, *([scan(tables)] if tables else []), *([texts.tree] if texts.tree else [])]
    around = [source.resolve().parent, *([reports.resolve().parent] if reports else [])]
    found = _find_tables([*places, *map(shallow, around)])
    listed = _listed(found, form, source)
    records = list(_records(tree, pictures, listed, _Joined.read(found, texts, form)))
    used = [*pictures, *_report_entries(texts)]
    contents = [*found.values(), *([texts.place.path] if texts.place.zipped else [])]
    facts = {"form": form, "tables": {kind: path.name for kind, path in sorted(found.items())}}
    return Listing(
        dataset=DATASET,
        access="credentialed",
        records=records,
        inputs=inputs_digest(used, contents),
        reports=texts.place if texts else None,
        facts=facts,
    )


def _form(pictures: Sequence[Entry], source: Path) -> Form:
    if not pictures:
        raise InputError(
            "no picture (.dcm, .dcm.gz or .jpg)",
            where=str(source),
            todo="give the folder that holds files/ of MIMIC-CXR or MIMIC-CXR-JPG",
        )
    plain = [picture.name.lower().endswith(("jpg", "jpeg", "png")) for picture in pictures]
    if any(plain) and not all(plain):
        raise UsageError(
            "both DICOM files and JPG pictures lie here",
            where=str(source),
            todo="give the folder of one of them; --reports and --tables may name the other",
        )
    return "jpg" if all(plain) else "dicom"


def _find_tables(places: Sequence[Tree]) -> dict[str, Path]:
    found = {}
    for kind, pattern in TABLES.items():
        paths = [path for place in places if (path := place.find(pattern))]
        if paths:
            found[kind] = paths[0]
    return found


def _listed(found: Mapping[str, Path], form: Form, source: Path) -> list[dict[str, str]]:
    """Return the rows that say which pictures the release has."""
    wanted = ["split"] if form == "dicom" else ["split", "metadata"]
    for kind in wanted:
        if kind not in found:
            raise InputError(
                f"no table mimic-cxr-2.0.0-{kind}.csv.gz",
                where=str(source),
                todo="download it from physionet.org/content/mimic-cxr-jpg and put it there, "
                "or name its folder with --tables",
            )
    kinds = ["records", "metadata", "split"] if form == "dicom" else ["metadata"]
    path = next(found[kind] for kind in kinds if kind in found)
    rows = list(read_csv(path, IDS))
    if any(not DICOM_ID.fullmatch(row["dicom_id"]) for row in rows):
        raise InputError("a dicom_id is not one of MIMIC-CXR", where=str(path))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """What the tables and the reports say, by id."""

    views: Mapping[str, tuple[str | None, str]] | None
    splits: Mapping[str, str]
    labels: Labelled
    reports: Reports
    form: Form

    @classmethod
    def read(cls, found: Mapping[str, Path], reports: Reports, form: Form) -> _Joined:
        metadata = found.get("metadata")
        return cls(
            views=_views(metadata) if metadata else None,
            splits=_splits(found["split"]),
            labels=Labelled(
                automatic=_labels(found.get("chexpert")),
                radiologist=_labels(found.get("radiologist")),
            ),
            reports=reports,
            form=form,
        )

    def view(self, dicom_id: str) -> tuple[str | None, str]:
        if self.views is None:
            return None, "header"
        return self.views.get(dicom_id, (None, "none"))


def _views(path: Path) -> dict[str, tuple[str | None, str]]:
    columns = ["dicom_id", "ViewPosition", "PerformedProcedureStepDescription"]
    views: dict[str, tuple[str | None, str]] = {}
    for row in read_csv(path, columns):
        if position := row["ViewPosition"].strip().upper():
            views[row["dicom_id"]] = (position, "metadata")
        elif guess := view_of_procedure(row["PerformedProcedureStepDescription"]):
            views[row["dicom_id"]] = (guess, "procedure")
    return views


def view_of_procedure(text: str) -> str | None:
    """Return the view that a procedure's name tells, if it can mean only one.

    `CHEST (PA AND LAT)` tells nothing of a single film; a decubitus film is neither.
    """
    words = set(re.findall(r"[A-Z]+", text.upper()))
    views = {VIEW_WORDS[word] for word in words & VIEW_WORDS.keys()}
    if len(views) != 1 or words & {"DECUB", "DECUBITUS"}:
        return None
    return views.pop()


def _splits(path: Path) -> dict[str, str]:
    splits = {row["dicom_id"]: row["split"] for row in read_csv(path, ["dicom_id", "split"])}
    if not set(splits.values()) <= set(SPLITS):
        raise InputError("a split is not train, validate or test", where=f"{path}, column split")
    return splits


def _labels(path: Path | None) -> dict[str, dict[str, float]]:
    """Read labels by study; `Airspace Opacity` of the 2.1.0 test labels is `Lung Opacity`."""
    if path is None:
        return {}
    labels = {}
    for row in read_csv(path, ["study_id"]):
        names = [name for name in row if name not in ("subject_id", "study_id")]
        values = marks(row, names, path=path)
        if "Airspace Opacity" in values:
            values["Lung Opacity"] = values.pop("Airspace Opacity")
        labels[row["study_id"].removeprefix("s")] = values
    return labels


def _records(
    tree: Tree, pictures: Sequence[Entry], listed: Sequence[dict[str, str]], joined: _Joined
) -> Iterator[Record]:
    on_disk: dict[str, Entry] = {}
    for entry in pictures:
        image_id = without_ending(entry.name)
        study = re.search(r"(?:^|/)s(\d{8})/", entry.path)
        twin = image_id in on_disk
        on_disk.setdefault(image_id, entry)
        if twin:
            yield Record(
                image_id=image_id,
                source=entry.path,
                root=tree.root,
                study_id=study[1] if study else None,
                rejection=Rejection(reason="duplicate_name"),
            )
    for row in listed:
        yield _record(tree, on_disk.pop(row["dicom_id"], None), row, joined)
    for image_id, entry in on_disk.items():
        study = re.search(r"(?:^|/)s(\d{8})/", entry.path)
        yield Record(
            image_id=image_id,
            source=entry.path,
            root=tree.root,
            study_id=study[1] if study else None,
            rejection=Rejection(reason="file_not_listed"),
        )


def _record(tree: Tree, entry: Entry | None, row: dict[str, str], joined: _Joined) -> Record:
    image_id, subject, study = row["dicom_id"], row["subject_id"], row["study_id"]
    ending = "dcm" if joined.form == "dicom" else "jpg"
    place = row.get("path") or f"files/p{subject[:2]}/p{subject}/s{study}/{image_id}.{ending}"
    split = joined.splits.get(image_id, "")
    view, view_source = joined.view(image_id)
    labels, label_source = joined.labels.of(study, split)
    return Record(
        image_id=image_id,
        source=entry.path if entry else place,
        root=tree.root,
        study_id=study,
        subject_id=subject,
        view=view,
        view_source=view_source,
        split=split,
        report=joined.reports.names.get(study),
        labels=labels,
        label_source=label_source,
        rejection=_rejection(tree, entry, place, split, study in joined.reports.names, joined),
    )


def _rejection(
    tree: Tree, entry: Entry | None, place: str, split: str, has_report: bool, joined: _Joined
) -> Rejection | None:
    if entry is None:
        linked = tree.behind_link(place)
        return Rejection(reason="link_outside" if linked else "file_missing")
    if entry.outside:
        return Rejection(reason="link_outside")
    if not split:
        return Rejection(reason="split_missing")
    if joined.reports and not has_report:
        return Rejection(reason="report_missing", stage="reports")
    return None


def _report_entries(reports: Reports) -> list[Entry]:
    if reports.tree is None:
        return []
    return [reports.tree.entries[path] for path in reports.names.values()]
