"""What the reports hold: where sections come from, how long they are, which texts come again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...page import Cell, Charts, Fold, Histogram, Prose, Section, Share, Table
from .prepared import PreparedSet, counts_of, distinct

SECTIONS = ("findings", "impression")
FREQUENT = 8  # texts shown of each section
LONGEST = 300  # characters of a text that are shown
BINS = 24
MARKS = r"_{2,}|x{4,}"  # what de-identification leaves behind, in lower case
SOURCES = {
    "header": "under its own header",
    "combined": "one header for both sections",
    "last_paragraph": "the last paragraph stands for it",
    "override": "set by hand for a known report",
    "none": "no section",
}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of one section that are not empty, made alike by `normal`, and their splits."""

    name: str
    text: pa.ChunkedArray
    split: pa.ChunkedArray

    @property
    def title(self) -> str:
        """Name of the section as it is shown."""
        return self.name.capitalize()


def read_texts(prepared: PreparedSet) -> tuple[Texts, ...]:
    """Return the texts of the sections that a set has."""
    found = []
    for name in SECTIONS:
        known = pc.not_equal(prepared.manifest[name], "")
        part = prepared.manifest.select([name, "split"]).filter(known)
        if part.num_rows:
            found.append(Texts(name=name, text=normal(part[name]), split=part["split"]))
    return tuple(found)


def texts_section(prepared: PreparedSet, texts: tuple[Texts, ...]) -> Section | None:
    """Return what is said of the reports, or None for a set without any text."""
    if not texts:
        return None
    lengths = [_words(each.text) for each in texts]
    pairs = list(zip(texts, lengths, strict=True))
    table = Table(
        columns=("section", "films with it", "", "distinct texts", "25 %", "50 %", "75 %"),
        rows=tuple(_row(each, words, prepared.rows) for each, words in pairs),
        caption="words: a quarter, half and three quarters of the texts have at most so many",
    )
    charts = Charts(
        histograms=tuple(
            histogram(words, title=f"Length of {each.title}", unit="words") for each, words in pairs
        )
    )
    folds = (_frequent(each) for each in texts)
    return Section(title="Reports", blocks=(table, charts, _sources(prepared), *folds))


def text_remarks(texts: tuple[Texts, ...]) -> Iterator[Prose]:
    """Yield what deserves a look: most texts of the test split are texts of training too."""
    for each in texts:
        trained = pc.filter(each.text, pc.equal(each.split, "train"))
        tested = pc.filter(each.text, pc.equal(each.split, "test"))
        shared = pc.sum(pc.is_in(tested, value_set=trained.unique())).as_py() or 0
        if 2 * shared > len(tested):
            text = f"{each.title} of the test split that stand word for word in training"
            counts = (shared, len(tested))
            yield Prose(text=f"{text}: {{}} of {{}}.", counts=counts, tone="note")


def normal(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts in lower case with single blanks, each mark of de-identification one `_`."""
    lowered = pc.utf8_lower(column)
    marked = pc.replace_substring_regex(lowered, MARKS, "_")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(marked, r"\s+", " "))


def histogram(values: np.ndarray, *, title: str, unit: str) -> Histogram:
    """Return a histogram of numbers >= 0 in bins of a round width; the last takes the rest."""
    top = float(np.percentile(values, 99))
    width = next(w for w in _round_widths() if top / w <= BINS)
    last = int(top // width)
    counts = np.bincount(np.minimum(values // width, last).astype(np.int64), minlength=last + 1)
    labels = [_bin(place * width, (place + 1) * width - 1) for place in range(last)]
    return Histogram(
        title=title,
        unit=unit,
        labels=(*labels, f"{last * width} and more"),
        counts=tuple(counts.tolist()),
    )


def _round_widths() -> list[int]:
    return [step * 10**power for power in range(9) for step in (1, 2, 5)]


def _bin(low: int, high: int) -> str:
    return f"{low}–{high}" if low < high else f"{low}"


def _words(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.count_substring(column, " ")) + 1


def _row(texts: Texts, words: np.ndarray, films: int) -> tuple[Cell, ...]:
    quantiles = [str(int(number)) for number in np.percentile(words, (25, 50, 75)).round()]
    share = Share(part=len(words), whole=films)
    return (texts.title, len(words), share, distinct(texts.text), *quantiles)


def _sources(prepared: PreparedSet) -> Table:
    counts = counts_of(prepared.manifest, "section_source")
    return Table(
        columns=("section source", "what it means", "films", ""),
        rows=tuple(
            (source, SOURCES.get(source), count, Share(part=count, whole=prepared.rows))
            for (source,), count in counts.items()
        ),
    )


def _frequent(texts: Texts) -> Fold:
    """Return the texts that most films share."""
    counts = list(counts_of(pa.table({"text": texts.text}), "text").items())[:FREQUENT]
    table = Table(
        columns=("films", "text"),
        rows=tuple((count, _cut(text)) for (text,), count in counts),
    )
    return Fold(summary=f"The most frequent {texts.title}", blocks=(table,), private=True)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
