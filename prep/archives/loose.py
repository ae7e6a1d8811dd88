"""Files that belong to no known archive: pictures and reports, anywhere below the given paths."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...contract import InputError, Reject
from ..download.openi_xml import Damaged, read_citations
from ..download.reports import ReportPlace
from ..download.tables import read_csv
from ..download.tree import Entry, inputs_digest, readable, scan, without_ending
from ..record import Listing, Record, Rejection, Sections

TEXT_COLUMNS = ("report", "text")
ID_COLUMNS = ("report_id", "study_id", "study", "uid", "id")


def list_images(paths: Sequence[Path], skip: Sequence[Path] = ()) -> Listing:
    """List every file below `paths` (folders or single files) as a picture to be made a PNG.

    Each PNG is named like its file, below the output folder; of two files for one name the second
    is rejected. Nobody said that such files are public, so they count as credentialed. Raises
    InputError when a path is missing or nothing is there.
    """
    records: list[Record] = []
    used: list[Entry] = []
    names: set[str] = set()
    for path in paths:
        root, entries = _files(path, skip)
        used += entries
        for entry in entries:
            record = _picture(entry, root, names)
            names.add(record.target or "")
            records.append(record)
    if not records:
        raise InputError("no file", where=", ".join(map(str, paths)))
    inputs = inputs_digest(used)
    return Listing(dataset="images", access="credentialed", records=records, inputs=inputs)


def _files(path: Path, skip: Sequence[Path]) -> tuple[Path, list[Entry]]:
    if path.is_dir():
        tree = scan(path, skip)
        return path, [entry for _, entry in sorted(tree.entries.items())]
    if not path.exists():
        raise InputError("no such file or folder", where=str(path))
    return path.parent, [Entry(path.name, path.stat().st_size)]


def _picture(entry: Entry, root: Path, names: set[str]) -> Record:
    image_id = readable(without_ending(entry.path))
    target = f"{image_id}.png"
    reason = "link_outside" if entry.outside else None
    if not reason and target in names:
        reason = "duplicate_name"
    return Record(
        image_id=image_id,
        source=entry.path,
        root=root,
        target=None if reason else target,
        rejection=Rejection(reason=reason) if reason else None,
    )


@dataclass(frozen=True, kw_only=True)
class LooseReport:
    """A report: its id, where it lies, and its text as bytes, as sections, or its verdict."""

    report_id: str
    source: str
    content: bytes | Sections | Reject


def loose_reports(paths: Sequence[Path]) -> Iterator[LooseReport]:
    """Yield every report of folders (txt, csv, Open-i XML below them), zips, tar.gz and csv files.

    Raises InputError when a path is missing, is of no known kind, or a csv has no report column.
    """
    for path in paths:
        yield from _reports_of(path)


def _reports_of(path: Path) -> Iterator[LooseReport]:
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.is_file():
        raise InputError("no such file or folder", where=str(path))
    elif path.name.endswith((".tar.gz", ".tgz")):
        yield from _citations(path, {})
    elif re.search(r"\.csv(\.gz)?$", path.name):
        yield from _table(path, path.name)
    elif path.suffix == ".zip":
        yield from _in_zip(path)
    elif path.suffix == ".txt":
        yield _text(ReportPlace(path=path.parent, zipped=False), path.name)
    elif path.suffix == ".xml":
        yield from _citations(None, {path.name: path})
    else:
        raise InputError(
            "not a kind of report file that is known",
            where=str(path),
            todo="give a folder, .txt, .csv, .zip, .xml or .tar.gz",
        )


def _in_folder(path: Path) -> Iterator[LooseReport]:
    tree = scan(path)
    place = ReportPlace(path=path, zipped=False)
    citations = {}
    for name, entry in sorted(tree.entries.items()):
        if entry.outside and name.endswith((".txt", ".xml")):
            yield _rejected(name, Reject("link_outside"))
        elif name.endswith(".txt"):
            yield _text(place, name)
        elif name.endswith(".xml"):
            citations[name] = path / name
    yield from _citations(None, citations)


def _in_zip(path: Path) -> Iterator[LooseReport]:
    place = ReportPlace(path=path, zipped=True)
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
    except (OSError, zipfile.BadZipFile):
        raise InputError(
            "not readable as a zip file", where=str(path), todo="download it again"
        ) from None
    for name in names:
        yield _text(place, name)


def _text(place: ReportPlace, name: str) -> LooseReport:
    content: bytes | Reject
    try:
        content = place.read(name)
    except Reject as reject:
        content = reject
    stem = readable(name).rpartition("/")[2].removesuffix(".txt")
    return LooseReport(report_id=stem, source=readable(name), content=content)


def _rejected(name: str, reject: Reject) -> LooseReport:
    stem = readable(name).rpartition("/")[2].rpartition(".")[0]
    return LooseReport(report_id=stem, source=readable(name), content=reject)


def _citations(packed: Path | None, files: Mapping[str, Path]) -> Iterator[LooseReport]:
    for citation in read_citations(packed, files):
        if isinstance(citation, Damaged):
            yield _rejected(citation.name, Reject("report_unreadable"))
            continue
        texts = dict(citation.texts)
        sections = Sections(
            findings=texts.pop("findings", ""),
            impression=texts.pop("impression", ""),
            others={name: text for name, text in texts.items() if text},
        )
        yield LooseReport(report_id=citation.uid, source=citation.uid, content=sections)


def _table(path: Path, source: str) -> Iterator[LooseReport]:
    """Yield the reports of a csv: a whole text, or findings and impression, and an id."""
    for number, row in enumerate(read_csv(path, []), start=1):
        text = next((row[name] for name in TEXT_COLUMNS if name in row), None)
        apart = {"findings", "impression"} & row.keys()
        if text is None and not apart:
            raise InputError(
                "no column named report, text, findings or impression", where=str(path)
            )
        known = next((row[name] for name in ID_COLUMNS if row.get(name)), "")
        content: bytes | Sections
        if text is not None:
            content = text.encode()
        else:
            content = Sections(
                findings=row.get("findings", ""), impression=row.get("impression", ""), others={}
            )
        where = f"{readable(source)}, row {number}"
        stem = path.name.partition(".")[0]
        yield LooseReport(report_id=known or f"{stem}-{number}", source=where, content=content)
