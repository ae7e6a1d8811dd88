"""The frame of a page: escaped, self-contained, and without what must not be shared."""

import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate.contract import Access
from imitate.page import (
    Axis,
    Block,
    Charts,
    Curve,
    Fold,
    Heading,
    Histogram,
    Page,
    Plot,
    Plots,
    Prose,
    Section,
    Share,
    Sheet,
    Table,
    Tile,
    count_text,
    render_page,
    share_text,
    write_page,
)

VOID = {"meta", "img", "link", "br", "hr"}
PICTURE = "data:image/jpeg;base64,QUJD"


class Balance(HTMLParser):
    """Fails where an end tag does not close the tag that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(
    *blocks: Block, access: Access = "open", phantom: bool = False, shareable: bool = False
) -> Page:
    return Page(
        title="set <one>",
        kicker="a set",
        lead=(Prose(text="{} of {} rows", counts=(7, 123)),),
        headline=(("rows", 1234),),
        sections=(Section(title="First part", blocks=blocks),),
        access=access,
        phantom=phantom,
        shareable=shareable,
        footer="end",
    )


EVERYTHING: tuple[Block, ...] = (
    Heading(title="A task"),
    Prose(text="plain & simple", tone="note"),
    Prose(text="patient seven", private=True),
    Table(
        columns=("name", "n", "part"), rows=(("<b>", 3, Share(part=3, whole=9)), ("c", 44, None))
    ),
    Table(columns=("id",), rows=(("secret-id",),), private=True),
    Charts(histograms=(Histogram(title="h", unit="mm", labels=("0", "1"), counts=(4, 40)),)),
    Sheet(
        title="films",
        text="words of films",
        tiles=(Tile(pictures=(("before", PICTURE), ("", "")), caption=("key9",)),),
    ),
    Fold(
        summary="more", blocks=(Prose(text="inner words"), Prose(text="buried words", private=True))
    ),
)


def test_every_block_is_shown_and_every_tag_is_closed() -> None:
    html = render_page(page(*EVERYTHING))
    parser = Balance()
    parser.feed(html)
    assert not parser.open
    for text in (
        "plain &amp; simple",
        "patient seven",
        "secret-id",
        "key9",
        "<p>words of films</p>",
        "inner words",
        "buried words",
    ):
        assert text in html
    assert "7 of 123 rows" in html
    assert "1,234" in html
    assert 'class="n">44<' in html


def test_the_contents_lead_to_sections_and_headings() -> None:
    html = render_page(page(*EVERYTHING))
    contents = html.split("<nav>")[1].split("</nav>")[0]
    targets = re.findall(r'<a href="#([^"]*)"', contents)
    assert targets == ["first-part", "first-part-a-task"]
    assert all(html.count(f'id="{target}"') == 1 for target in targets)


def test_a_column_of_counts_is_aligned_as_one_also_where_one_is_missing() -> None:
    html = render_page(page(Table(columns=("a", "b"), rows=(("x", None), (3, 7)))))
    assert '<th class="n">b</th>' in html and '<td class="n">–</td>' in html
    assert "<th>a</th>" in html


def test_more_curves_than_colours_are_told_apart() -> None:
    axis = Axis(name="axis", low=0.0, high=1.0, ticks=())
    curves = tuple(Curve(name=f"{i}", points=((0.0, 0.0), (1.0, 1.0))) for i in range(12))
    guide = Curve(name="guide", points=((0.0, 0.0), (1.0, 1.0)), look="guide")
    html = render_page(
        page(Plots(plots=(Plot(title="p", x=axis, y=axis, curves=(*curves, guide)),)))
    )
    looks = re.findall(r'<i class="([^"]*)"', html)
    assert len(looks) == 13 and len(set(looks)) == 13 and looks[-1] == "guide"


def test_a_page_needs_no_network_and_no_script() -> None:
    html = render_page(page(*EVERYTHING))
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)
    assert all(uri.startswith("data:") for uri in re.findall(r'src="([^"]*)"', html))


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "{{ 7 }}"]
)
def test_no_text_can_become_markup(text: str) -> None:
    tile = Tile(pictures=((text, PICTURE),), caption=(text,), tags=(text,))
    html = render_page(
        page(
            Prose(text=text),
            Table(columns=(text,), rows=((text,),), caption=text),
            Charts(histograms=(Histogram(title=text, unit=text, labels=(text,), counts=(1,)),)),
            Sheet(title=text, text=text, tiles=(tile,)),
            Fold(summary=text, blocks=(Prose(text=text),)),
        )
    )
    assert text not in html or text == "{{ 7 }}"
    assert "<script" not in html
    assert "<img src=x" not in html


def test_a_shareable_page_leaves_private_blocks_out_wherever_they_are() -> None:
    html = render_page(page(*EVERYTHING, shareable=True))
    for text in ("patient seven", "secret-id", "key9", "of films", "buried words", PICTURE, "<img"):
        assert text not in html
    assert "inner words" in html
    assert "&lt;10 of 120 rows" in html
    assert "For sharing" in html
    alone = render_page(page(Prose(text="x", private=True), shareable=True))
    assert "First part" not in alone


def test_a_small_count_shows_in_no_bar_of_a_shareable_page() -> None:
    def bars(small: int) -> str:
        histogram = Histogram(title="h", unit="mm", labels=("0", "1"), counts=(small, 40))
        table = Table(columns=("part",), rows=((Share(part=small, whole=4321),),))
        return render_page(page(Charts(histograms=(histogram,)), table, shareable=True))

    assert len({bars(small) for small in range(1, 10)}) == 1


@given(st.integers(0, 10**7))
def test_counts_of_a_shareable_page_tell_no_small_number(count: int) -> None:
    text = count_text(count, shareable=True)
    assert count_text(count, shareable=False) == f"{count:,}"
    if 0 < count < 10:
        assert text == "<10"
    else:
        shown = int(text.replace(",", ""))
        assert shown % 10 == 0
        assert abs(shown - count) <= 5


@given(st.integers(1, 10**7), st.data())
def test_a_share_is_0_or_100_percent_only_if_it_is(whole: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, whole))
    text = share_text(Share(part=part, whole=whole), shareable=False)
    assert (text == "0.0 %") == (part == 0)
    assert (text == "100.0 %") == (part == whole)


def test_every_header_of_a_phantom_says_so() -> None:
    html = render_page(page(*EVERYTHING, phantom=True))
    headers = re.findall(r"<title>[^<]*, phantom[^<]*</title>|<h[123][^>]*>.*?</h[123]>", html)
    assert len(headers) == 5
    assert all("phantom" in header for header in headers)
    assert "phantom" not in render_page(page(*EVERYTHING))


def test_a_restricted_page_says_so_and_is_its_owners_alone(tmp_path: Path) -> None:
    modes = {}
    cases: list[tuple[str, Page]] = [
        ("restricted", page(*EVERYTHING, access="credentialed")),
        ("shareable", page(*EVERYTHING, access="credentialed", shareable=True)),
        ("open", page(*EVERYTHING)),
    ]
    for name, written in cases:
        write_page(tmp_path / name, written)
        modes[name] = stat.S_IMODE((tmp_path / name).stat().st_mode)
        assert ("RESTRICTED" in (tmp_path / name).read_text()) == (name != "open")
    assert modes["restricted"] == 0o600
    assert modes["shareable"] == modes["open"]


def test_equal_pages_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_page(tmp_path / name, page(*EVERYTHING))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def plot_page(*, shareable: bool) -> str:
    x = Axis(name="across", low=0.0, high=10.0, ticks=((0.0, "0"), (10.0, "10")))
    y = Axis(name="up", low=-1.0, high=1.0, ticks=((0.0, "half"),))
    curves = (
        Curve(name="line <a>", points=((0.0, -1.0), (3.337, 0.0), (10.0, 5.0))),
        Curve(name="both", points=((5.0, 0.0),), look="both", bars=((5.0, -1.0, 1.0),)),
    )
    plots = Plots(plots=(Plot(title="a plot", x=x, y=y, curves=curves),))
    return render_page(page(plots, shareable=shareable, phantom=True))


def test_curves_lie_in_their_frame_where_their_axes_say() -> None:
    html = plot_page(shareable=False)
    parser = Balance()
    parser.feed(html)
    assert not parser.open
    (points,) = re.findall(r'class="curve c0" points="([^"]*)"', html)
    assert points.split() == ["56.00,182.00", "145.43,94.00", "324.00,6.00"]  # cut at the frame
    assert 'd="M190.00 182.00V6.00"' in html and 'cx="190.00" cy="94.00"' in html
    for text in ("a plot", "across", ">up</text>", "half", "line &lt;a&gt;"):
        assert text in html
    assert html.count("phantom</span>") == 3  # of the page, the section and the plot


def test_shared_curves_are_as_coarse_as_a_hundredth() -> None:
    (points,) = re.findall(r'class="curve c0" points="([^"]*)"', plot_page(shareable=True))
    assert points.split()[1] == "144.44,94.00"
