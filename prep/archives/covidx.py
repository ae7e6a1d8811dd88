"""COVIDx: the lists of lindawangg/COVID-Net, and the pictures as Kaggle serves them.

The pictures lie in `train/`, `test/` and, from CXR-4 on, `val/`, or anywhere under their names.
The binary lists (negative, positive) become the label COVID-19; the lists of three classes become
three labels of which one is 1, under the lists' own words. The sources are public collections, and
class and source nearly coincide: the listing counts both, and says so in its notes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...contract import SPLITS, UsageError, key_of
from ..download.covidx_lists import COVID, FOLDERS, WORDS, Lists, Row, choose_lists
from ..download.tree import Entry, Tree, inputs_digest, scan, without_ending
from ..protocols.protocol import Protocol, load_protocol
from ..record import Listing, Record, Rejection

DATASET = "covidx"
PICTURES_AS_PATIENTS = "rsna"  # the source whose patient ids in the lists name pictures


def list_covidx(
    source: Path,
    *,
    protocol: str,
    classes: int,
    seed: int,
    skip: Sequence[Path] = (),
) -> Listing:
    """List COVIDx below `source`, from the newest lists that name `classes` classes.

    Raises InputError for missing or damaged lists, and UsageError for another number of classes
    or an unknown protocol.
    """
    if classes not in WORDS:
        raise UsageError(f"--classes {classes} is neither 2 nor 3")
    rules = load_protocol(DATASET, protocol)
    tree = scan(source, skip)
    lists = choose_lists(tree, classes)
    rows = _by_image_id(lists.rows)
    splits = rules.split(
        list(rows),
        subjects={name: row.patient for name, row in rows.items()},
        official={name: row.split for name, row in rows.items()},
        labels={name: labels_of(row.word) for name, row in rows.items()},
        seed=seed,
    )
    records = list(_records(tree, lists, rows, splits, rules))
    reasons = {record.rejection.reason for record in records if record.rejection}
    complete = not reasons & {"file_missing", "link_outside"}
    facts = _facts(lists, classes)
    return Listing(
        dataset=DATASET,
        access="open",
        records=records,
        inputs=inputs_digest(tree.pictures(), lists.files),
        facts={**facts, "protocol": rules.facts(splits, complete=complete)},
        notes=(*_warnings(rows.values(), facts["sources"]), *rules.notes(splits)),
    )


def labels_of(word: str) -> dict[str, float]:
    """Return the labels that a word of the lists stands for."""
    if word in WORDS[2]:
        return {COVID: float(word == "positive")}
    return {name: float(name == word) for name in WORDS[3]}


def _by_image_id(rows: Sequence[Row]) -> dict[str, Row]:
    """Return one row of each image id, the file name without ending: that of the test list first.

    Files whose names differ in the ending alone (nine pairs in version 9) keep theirs.
    """
    keys = Counter(key_of(without_ending(name)) for name in {row.file for row in rows})
    found: dict[str, Row] = {}
    for row in rows:
        stem = without_ending(row.file)
        name = stem if keys[key_of(stem)] == 1 else row.file
        if found.setdefault(name, row).split != "test" == row.split:
            found[name] = row
    return found


class _Shelf:
    """The pictures on the disk by name, each handed out once."""

    def __init__(self, tree: Tree) -> None:
        self._by_name: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in tree.pictures():
            self._by_name[entry.name].append(entry)

    def take(self, row: Row) -> Entry | None:
        """Return a row's picture, that in the folder of its list first; None when it is missing."""
        entries = self._by_name.get(row.file, [])
        own = (e for e in entries if e.path.split("/")[-2:-1] in [[f] for f in FOLDERS[row.split]])
        entry = next(own, entries[0] if entries else None)
        if entry is not None:
            entries.remove(entry)
        return entry

    def left(self) -> Iterator[Entry]:
        """Yield the pictures that no row has taken."""
        for entries in self._by_name.values():
            yield from entries


def _records(
    tree: Tree, lists: Lists, rows: Mapping[str, Row], splits: Mapping[str, str], rules: Protocol
) -> Iterator[Record]:
    ids = {id(row): name for name, row in rows.items()}
    shelf = _Shelf(tree)
    for row in lists.rows:
        entry = shelf.take(row)
        image_id = ids.get(id(row), without_ending(row.file))
        source = entry.path if entry else f"{FOLDERS[row.split][0]}/{row.file}"
        reason = _verdict(tree, entry, source)
        if id(row) not in ids:
            reason = "duplicate_name"
        elif reason is None and image_id not in splits:
            reason = "not_in_protocol"
        if reason:
            rejection = Rejection(reason=reason)
            yield Record(image_id=image_id, source=source, root=tree.root, rejection=rejection)
            continue
        yield Record(
            image_id=image_id,
            source=source,
            root=tree.root,
            subject_id=row.patient,
            split=splits[image_id],
            labels=rules.targets(labels_of(row.word)),
            label_source=DATASET,
            metadata={"origin": row.origin} if row.origin else {},
        )
    for entry in shelf.left():
        rejection = Rejection(reason="file_not_listed")
        image_id = without_ending(entry.name)
        yield Record(image_id=image_id, source=entry.path, root=tree.root, rejection=rejection)


def _verdict(tree: Tree, entry: Entry | None, source: str) -> str | None:
    """Return what is wrong with a listed picture's file, or None."""
    if entry is None:
        return "link_outside" if tree.behind_link(source) else "file_missing"
    return "link_outside" if entry.outside else None


def _facts(lists: Lists, classes: int) -> dict[str, Any]:
    counts = Counter((row.split, row.word, row.origin or "unknown") for row in lists.rows)
    sources: dict[str, dict[str, dict[str, int]]] = {}
    for (split, word, origin), count in sorted(counts.items()):
        sources.setdefault(split, {}).setdefault(word, {})[origin] = count
    words = " or ".join(WORDS[classes])
    return {
        "labels": dict.fromkeys(labels_of(WORDS[classes][0]), f"the class of the lists: {words}"),
        "lists": [path.name for path in lists.files],
        "sources": sources,
    }


def _warnings(rows: Iterable[Row], sources: Mapping[str, Any]) -> Iterator[str]:
    """Yield what every number on COVIDx must be read with: whose pictures the classes are."""
    for split in (name for name in SPLITS if name in sources):
        told = "; ".join(
            f"{word} from " + ", ".join(f"{name} ({n})" for name, n in by_source.items())
            for word, by_source in sources[split].items()
        )
        yield f"sources of the {split} list: {told}"
    yield "classes with sources of their own: a score may measure which source a picture is from"
    patients: defaultdict[str, set[str]] = defaultdict(set)
    unknown = 0
    for row in rows:
        patients[row.patient].add(row.split)
        unknown += row.origin == PICTURES_AS_PATIENTS
    if unknown:
        yield f"{unknown} pictures from RSNA carry a picture's id as patient: theirs are not known"
    shared = sorted(name for name, splits in patients.items() if len(splits) > 1)
    if shared:
        yield f"{len(shared)} patients are in two lists, such as {', '.join(shared[:3])}"
