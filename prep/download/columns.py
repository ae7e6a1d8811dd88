"""Which column of a user's table holds what: by the names used here, or mapped to them.

Known names are those of NAMES, and `label_` with the name of a label. Whatever is wrong is
gathered as plain sentences, each with the nearest name that exists, so that one run shows all.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = (
    "image",
    "image_id",
    "subject_id",
    "study_id",
    "view",
    "split",
    "report",
    "findings",
    "impression",
    "mask",
    "sex",
    "age",
    "origin",
)
TEXTS = ("report", "findings", "impression")
PATHS = ("image", "image_path", "path", "filename")  # what such a column is often called
LABEL = "label_"  # a column of this prefix is a label without it
SHOWN = 12  # columns that a sentence lists


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table by known name, and those of its labels by label."""

    named: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def all(self) -> tuple[str, ...]:
        """Names of the columns that are read, each once, in order."""
        return tuple(dict.fromkeys([*self.named.values(), *self.labels.values()]))

    @property
    def has_text(self) -> bool:
        """Whether a column holds reports."""
        return any(name in self.named for name in TEXTS)


@dataclass(frozen=True, kw_only=True)
class Problems:
    """What is wrong with the options, and with the table itself."""

    options: tuple[str, ...] = ()
    table: tuple[str, ...] = ()


def find_columns(
    header: Sequence[str], *, maps: Sequence[str], labels: str | None
) -> tuple[Columns, Problems]:
    """Return which columns are which, and every problem of the options and the header.

    `maps` are `name=Column`; `labels` is a list of columns, `prefix*` for all of a prefix.
    """
    pairs, wrong = _mapped(header, maps)
    chosen, unknown = _chosen(header, labels)
    taken = {*pairs.values(), *chosen}
    own = {name: name for name in header if name in NAMES and name not in taken}
    named = {name: column for name, column in {**own, **pairs}.items() if name in NAMES}
    marked = {c.removeprefix(LABEL): c for c in header if c.startswith(LABEL) and c not in taken}
    renamed = {n.removeprefix(LABEL): c for n, c in pairs.items() if n.startswith(LABEL)}
    plain = {column.removeprefix(LABEL): column for column in chosen}
    columns = Columns(named=named, labels={**marked, **plain, **renamed})
    return columns, Problems(options=(*wrong, *unknown), table=_missing(header, columns))


def _mapped(header: Sequence[str], maps: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    pairs: dict[str, str] = {}
    wrong = []
    for text in maps:
        name, equals, column = text.partition("=")
        if not (name and equals and column):
            wrong.append(f"--map {text!r} is not name=Column")
        elif name not in NAMES and name.removeprefix(LABEL) == name:
            wrong.append(f"--map does not know {name!r}; {_near([name], (*NAMES, LABEL))}")
        elif column not in header:
            wrong.append(f"--map {text!r}: no column {column!r}; {_near([column], header)}")
        elif name in pairs:
            wrong.append(f"--map names {name!r} twice")
        else:
            pairs[name] = column
    return pairs, wrong


def _chosen(header: Sequence[str], labels: str | None) -> tuple[list[str], list[str]]:
    chosen: list[str] = []
    wrong = []
    for name in (labels or "").split(",") if labels is not None else ():
        name = name.strip()
        if name.endswith("*") and name[:-1]:
            found = [column for column in header if column.startswith(name[:-1])]
        else:
            found = [name] if name in header else []
        if not found:
            wrong.append(f"--labels: no column {name!r}; {_near([name], header)}")
        chosen += found
    return chosen, wrong


def _missing(header: Sequence[str], columns: Columns) -> tuple[str, ...]:
    found = []
    if "image" not in columns.named:
        found.append(
            f"no column 'image' (paths of the pictures); {_near(PATHS, header)}; "
            "name it with --map image=Column"
        )
    if not (columns.has_text or columns.labels or "mask" in columns.named):
        found.append(
            f"no column report, findings, impression, mask or {LABEL}…; {_near(TEXTS, header)}; "
            "name them with --map report=Column or --labels A,B"
        )
    return tuple(found)


def _near(wanted: Sequence[str], known: Sequence[str]) -> str:
    """Say which known name is nearest to one of those wanted, or else which there are."""
    lower = {text.lower(): text for text in known}
    for name in wanted:
        if matches := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.55):
            return f"the nearest: {lower[matches[0]]!r}"
    more = ", …" if len(known) > SHOWN else ""
    return f"there are: {', '.join(known[:SHOWN])}{more}"
