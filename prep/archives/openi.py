"""Open-i (Indiana University chest X-ray collection), as downloaded or in its csv form.

As downloaded from openi.nlm.nih.gov: report XML (`ecgen-radiology/`, or packed as
`NLMCXR_reports.tgz` / `ecgen-radiology.tar.gz`) and a folder of PNG, JPG or DICOM pictures.
The csv form is `indiana_reports.csv` with `indiana_projections.csv`; it is preferred where both are
there, since only it tells frontal from lateral. Licence of the archive: CC BY-NC-ND 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...contract import InputError
from ..download.openi_xml import Citation, Damaged, read_citations
from ..download.tables import marks, read_csv
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import load_protocol
from ..record import Listing, Record, Rejection, Sections

DATASET = "openi"
PROJECTIONS = {"FRONTAL": "FRONTAL", "LATERAL": "LATERAL"}
BEST_FIRST = (".dcm", ".dcm.gz", ".png", ".jpg", ".jpeg")
GOLD = "openi_gld_std14.csv"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study of Open-i: its texts, its indexed terms, its pictures by id with their view."""

    uid: str
    texts: Sections | None
    terms: Sequence[str]
    views: Mapping[str, str | None]


@dataclass(kw_only=True)
class _Sources:
    """What the tables or the XML said, and which files that was."""

    form: str
    studies: list[Study]
    tables: list[Path]
    damaged: list[str] = field(default_factory=list)


def list_openi(source: Path, *, seed: int, skip: Sequence[Path] = ()) -> Listing:
    """List Open-i below `source`; the split is by study, 70/10/20, drawn from `seed`.

    Raises InputError when the pictures, or the reports in both forms, are missing.
    """
    tree = scan(source, skip)
    pictures = tree.pictures()
    if not pictures:
        raise InputError(
            "no picture (.png, .jpg or .dcm)",
            where=str(source),
            todo="unpack NLMCXR_png.tgz (or the pictures of the csv form) there",
        )
    found = _sources(tree)
    gold = tree.find(re.escape(GOLD))
    labels = _Labels.read(gold)
    uids = [study.uid for study in found.studies]
    splits = load_protocol(DATASET, "clean").split(uids, subjects={}, official={}, seed=seed)
    records = list(_records(tree, pictures, found, splits, labels))
    known = any(record.view or record.view_source == "header" for record in records)
    facts: dict[str, Any] = {"form": found.form, "views_known": known}
    tables = [*found.tables, *([gold] if gold else [])]
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(pictures, tables),
        facts=facts,
    )


def _sources(tree: Tree) -> _Sources:
    reports = tree.find(r"indiana_reports\.csv")
    projections = tree.find(r"indiana_projections\.csv")
    if reports and projections:
        studies = _csv_studies(reports, projections)
        return _Sources(form="csv", studies=studies, tables=[reports, projections])
    packed = tree.find(r"NLMCXR_reports\.(tgz|tar\.gz)|ecgen-radiology\.(tgz|tar\.gz)")
    loose = {
        path: tree.root / path
        for path, entry in tree.entries.items()
        if path.endswith(".xml") and not entry.outside
    }
    files = [packed] if packed else list(loose.values())
    if not files:
        raise InputError(
            "neither report XML nor the csv form",
            where=str(tree.root),
            todo="put ecgen-radiology/ or NLMCXR_reports.tgz there, or indiana_reports.csv with "
            "indiana_projections.csv",
        )
    views = _projections(projections) if projections else {}
    tables = [*files, *([projections] if projections else [])]
    found = _Sources(form="xml", studies=[], tables=tables)
    for citation in read_citations(packed, loose):
        if isinstance(citation, Damaged):
            found.damaged.append(citation.name)
        else:
            found.studies.append(_xml_study(citation, views))
    return found


def picture_name(image_id: str) -> str:
    """Return the name that all forms of the archive share: `CXR2_IM-0652-1001` is `2_IM-0652-1001`.

    The first study's XML says `CXR1_1_IM-0001-3001` where the csv form says `1_IM-0001-3001`.
    """
    match = re.search(r"(\d+_IM-.+)$", image_id)
    return match[1] if match else image_id


def _projections(path: Path) -> dict[str, tuple[str, str | None]]:
    """Return study and view of each picture of `indiana_projections.csv`."""
    return {
        without_ending(row["filename"]): (row["uid"], PROJECTIONS.get(row["projection"].upper()))
        for row in read_csv(path, ["uid", "filename", "projection"])
    }


def _csv_studies(reports: Path, projections: Path) -> list[Study]:
    columns = ["uid", "MeSH", "indication", "comparison", "findings", "impression"]
    rows = {row["uid"]: row for row in read_csv(reports, columns)}
    views: dict[str, dict[str, str | None]] = {uid: {} for uid in rows}
    for image_id, (uid, view) in _projections(projections).items():
        views.setdefault(uid, {})[image_id] = view
    studies = []
    for uid in sorted(views):
        row = rows.get(uid)
        terms = row["MeSH"].split(";") if row else []
        texts = _sections(row) if row else None
        studies.append(Study(uid=uid, texts=texts, terms=terms, views=views[uid]))
    return studies


def _xml_study(citation: Citation, views: Mapping[str, tuple[str, str | None]]) -> Study:
    by_name = {picture_name(image_id): view for image_id, (_, view) in views.items()}
    known = {name: by_name.get(picture_name(name)) for name in citation.pictures}
    texts = _sections(citation.texts)
    return Study(uid=citation.uid, texts=texts, terms=citation.terms, views=known)


def _sections(texts: Mapping[str, str]) -> Sections:
    others = {name: texts[name] for name in ("comparison", "indication") if texts.get(name)}
    return Sections(
        findings=texts.get("findings", ""), impression=texts.get("impression", ""), others=others
    )


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Hand-made labels of the studies that have them, else the indexed terms."""

    gold: Mapping[str, dict[str, float]] | None

    @classmethod
    def read(cls, path: Path | None) -> _Labels:
        if path is None:
            return cls(gold=None)
        gold = {}
        for row in read_csv(path, ["filename"]):
            names = [name for name in row if name != "filename"]
            gold[row["filename"].removeprefix("CXR")] = marks(row, names, path=path)
        return cls(gold=gold)

    def of(self, study: Study) -> tuple[dict[str, float], str | None]:
        if self.gold is not None:
            found = self.gold.get(study.uid, {})
            return found, "openi-gold-std14" if found else None
        heads = {term.partition("/")[0].strip() for term in study.terms} - {""}
        return dict.fromkeys(heads, 1.0), "mesh" if heads else None


def _records(
    tree: Tree,
    pictures: Sequence[Entry],
    found: _Sources,
    splits: Mapping[str, str],
    labels: _Labels,
) -> Iterator[Record]:
    on_disk, twins = _by_name(pictures)
    for entry in twins:
        yield _rejected(tree, entry, "duplicate_name")
    for name in found.damaged:
        rejection = Rejection(reason="report_unreadable", stage="reports")
        yield Record(image_id=None, source=name, root=tree.root, rejection=rejection)
    for study in found.studies:
        for name in study.views:
            picture = on_disk.pop(picture_name(name), None)
            yield _record(tree, picture, name, study, splits[study.uid], labels.of(study))
    for entry in on_disk.values():
        yield _rejected(tree, entry, "file_not_listed")


def _by_name(pictures: Sequence[Entry]) -> tuple[dict[str, Entry], list[Entry]]:
    """Return the picture of each name, DICOM before PNG before JPG, and those named twice.

    The same film in another format is no second picture; the same name and format is.
    """
    chosen: dict[str, Entry] = {}
    twins = []
    for entry in sorted(pictures, key=lambda e: (_rank(e.name), e.path)):
        name = picture_name(without_ending(entry.name))
        first = chosen.setdefault(name, entry)
        if first is not entry and _rank(first.name) == _rank(entry.name):
            twins.append(entry)
    return chosen, twins


def _rank(name: str) -> int:
    return next(i for i, ending in enumerate(BEST_FIRST) if name.lower().endswith(ending))


def _rejected(tree: Tree, entry: Entry, reason: str) -> Record:
    image_id = without_ending(entry.name)
    rejection = Rejection(reason=reason)
    return Record(image_id=image_id, source=entry.path, root=tree.root, rejection=rejection)


def _record(
    tree: Tree,
    entry: Entry | None,
    name: str,
    study: Study,
    split: str,
    labels: tuple[dict[str, float], str | None],
) -> Record:
    view = study.views[name]
    in_header = view is None and entry is not None and _rank(entry.name) < BEST_FIRST.index(".png")
    rejection = None
    if entry is None or entry.outside:
        rejection = Rejection(reason="file_missing" if entry is None else "link_outside")
    return Record(
        image_id=without_ending(entry.name) if entry else name,
        source=entry.path if entry else name,
        root=tree.root,
        study_id=study.uid,
        view=view,
        view_source="table" if view else "header" if in_header else "none",
        split=split,
        report=study.texts,
        labels=labels[0],
        label_source=labels[1],
        rejection=rejection,
    )
