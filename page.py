"""The frame of an HTML page: one file that needs no network and no script.

A page is data: sections of blocks (headings, prose, tables, histograms, plots, contact sheets,
folds). The frame alone decides how they look, and what a page that is to be shared leaves out: a
block marked `private` is dropped there, and every count is rounded (`count_text`), so that no
writer of a section can forget it. Equal data are equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from .contract import Access
from .files import atomic

if TYPE_CHECKING:
    from jinja2 import Template

SMALL = 10  # a count below this could point at one patient


@dataclass(frozen=True, kw_only=True)
class Share:
    """A cell that is drawn as a bar: `part` of `whole`."""

    part: int
    whole: int


Cell = str | int | Share | None


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading within a section, which the contents of the page name."""

    kind: ClassVar[str] = "heading"
    private: ClassVar[bool] = False
    title: str


@dataclass(frozen=True, kw_only=True)
class Prose:
    """A paragraph. With `counts` the text is a format string, and they fill its `{}`."""

    kind: ClassVar[str] = "prose"
    text: str
    counts: tuple[int, ...] = ()
    tone: Literal["plain", "quiet", "note", "fault", "code"] = "plain"
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: text to the left, counts to the right, None as a dash."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts in bins: one label a bin, `unit` below the axis."""

    title: str
    unit: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Histograms side by side."""

    kind: ClassVar[str] = "charts"
    private: ClassVar[bool] = False
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a plot: its name, its ends, and the places that carry a word."""

    name: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float, *, shareable: bool) -> float:
        """Return where a value lies, 0 to 1.

        In a page that is to be shared to a hundredth: finer steps would tell counts.
        """
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0), 2 if shareable else 5)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a plot (x, y) in their order; a `guide` is what they are compared with.

    `bars` are intervals (x, low, high).
    """

    name: str
    points: tuple[tuple[float, float], ...]
    look: Literal["line", "dots", "both", "guide"] = "line"
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves over common axes."""

    title: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class Plots:
    """Plots side by side."""

    kind: ClassVar[str] = "plots"
    private: ClassVar[bool] = False
    plots: tuple[Plot, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One place of a contact sheet: pictures as data URIs with a word each, and a caption."""

    pictures: tuple[tuple[str, str], ...]  # (word, data URI); an empty URI is an empty frame
    caption: tuple[str, ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet, `text` below its title; it shows patients, so it is always private."""

    kind: ClassVar[str] = "sheet"
    private: ClassVar[bool] = True
    title: str
    tiles: tuple[Tile, ...]
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks that a click on their summary opens."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple[Prose | Table, ...]
    private: bool = False


Block = Heading | Prose | Table | Charts | Plots | Sheet | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under its own header."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page; `headline` are the few numbers that tell most.

    `phantom` marks every header: what the page shows is synthetic.
    """

    title: str
    kicker: str
    lead: tuple[Prose, ...]
    headline: tuple[tuple[str, int], ...]
    sections: tuple[Section, ...]
    access: Access
    phantom: bool
    shareable: bool
    footer: str


def count_text(count: int, *, shareable: bool) -> str:
    """Return a count as it is shown.

    In a page that is to be shared, 1 to 9 are `<10` and larger ones are rounded to tens: without
    the rounding a small one would follow from a total and its other parts.
    """
    if shareable and 0 < count < SMALL:
        return f"<{SMALL}"
    return f"{_shown(count, shareable=shareable):,}"


def share_text(share: Share, *, shareable: bool) -> str:
    """Return a share in percent, to one decimal, never rounded to 0 or 100 unless it is."""
    if not share.whole or (shareable and 0 < share.part < SMALL):
        return ""
    part, whole = (_shown(n, shareable=shareable) for n in (share.part, share.whole))
    percent = 100 * part / max(whole, 1)
    if 0 < percent < 0.1:
        return "<0.1 %"
    return ">99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %"


def _shown(count: int, *, shareable: bool) -> int:
    return (count + SMALL // 2) // SMALL * SMALL if shareable else count


def prose_text(prose: Prose, *, shareable: bool) -> str:
    """Return a paragraph with its counts as they are shown."""
    if not prose.counts:
        return prose.text
    return prose.text.format(*(count_text(n, shareable=shareable) for n in prose.counts))


def render_page(page: Page) -> str:
    """Return the page as HTML, its texts escaped."""
    sections = [(s, kept) for s in page.sections if (kept := _kept(page, s.blocks))]
    lead = [prose for prose in page.lead if not (prose.private and page.shareable)]
    return _template().render(
        page=page,
        sections=sections,
        lead=lead,
        kept=partial(_kept, page),
        columns=_numeric,
        anchor=_anchor,
        count=partial(count_text, shareable=page.shareable),
        percent=partial(share_text, shareable=page.shareable),
        prose=partial(prose_text, shareable=page.shareable),
        width=partial(_width, shareable=page.shareable),
        bars=partial(_bars, shareable=page.shareable),
        across=partial(_across, shareable=page.shareable),
        up=partial(_up, shareable=page.shareable),
    )


def write_page(path: Path, page: Page) -> None:
    """Write the page; if it is neither open nor shareable, for its owner's eyes alone."""
    before = os.umask(0o077)
    if page.access != "credentialed" or page.shareable:
        os.umask(before)
    try:
        with atomic(path) as partial_file:
            partial_file.write_text(render_page(page), encoding="utf-8")
    finally:
        os.umask(before)


def _anchor(*titles: str) -> str:
    """Return the name of a section in links, or of a heading within it."""
    return "-".join(titles).lower().replace(" ", "-")


def _kept(page: Page, blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if not (block.private and page.shareable)]


def _numeric(table: Table) -> list[bool]:
    """Return which columns hold counts alone."""
    columns = [{type(row[i]) for row in table.rows} for i in range(len(table.columns))]
    return [int in kinds and kinds <= {int, type(None)} for kinds in columns]


def _width(share: Share, *, shareable: bool) -> str:
    """Return the length of a share's bar in percent; none where its count is not told."""
    if not share.whole or (shareable and share.part < SMALL):
        return "0"
    part, whole = (_shown(n, shareable=shareable) for n in (share.part, share.whole))
    return f"{min(100 * part / max(whole, 1), 100):.1f}"


def _bars(histogram: Histogram, *, shareable: bool) -> list[tuple[str, str, str, str, str]]:
    """Return x, y, width, height (in percent) and tooltip of each bar of a histogram."""
    shown = [_shown(count, shareable=shareable) for count in histogram.counts]
    top, step = max([*shown, 1]), 100 / max(len(shown), 1)
    bars = []
    for place, (label, count) in enumerate(zip(histogram.labels, histogram.counts, strict=True)):
        low = shareable and 0 < count < SMALL
        height = 1.0 if low else 100 * shown[place] / top
        tip = f"{label} {histogram.unit}: {count_text(count, shareable=shareable)}"
        x, y, width = place * step, 100 - height, 0.88 * step
        bars.append((f"{x:.2f}", f"{y:.1f}", f"{width:.2f}", f"{height:.1f}", tip))
    return bars


LEFT, WIDTH, TOP, HEIGHT = 56, 268, 6, 176  # of the frame of a plot, in its own pixels


def _across(axis: Axis, value: float, *, shareable: bool) -> str:
    return f"{LEFT + WIDTH * axis.at(value, shareable=shareable):.2f}"


def _up(axis: Axis, value: float, *, shareable: bool) -> str:
    return f"{TOP + HEIGHT * (1 - axis.at(value, shareable=shareable)):.2f}"


@cache
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["share"] = lambda cell: isinstance(cell, Share)
    return environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))
