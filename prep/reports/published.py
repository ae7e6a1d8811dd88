"""How the published parser of MIMIC-CXR cuts a report, restated for `--compat mit-lcp`.

The behaviour, not the code, of MIT-LCP/mimic-cxr (txt/section_parser.py and
create_section_files.py), which made mimic_cxr_sectioned.csv; MGCA and the work after it read
that table. It sees only headers in capitals that follow a line break and one blank, reads a
combined header as Impression, and of several sections of a name the table keeps the last.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_HEADER = re.compile(r"\n ([A-Z ()/,-]++):\s")
_BLANK_LINE = "\n \n"
_TEXT = ("impression", "findings")


class Piece(NamedTuple):
    """One section as the published parser cuts it: its name and offsets, blanks left in."""

    name: str
    start: int
    end: int


@cache
def _table() -> dict[str, Any]:
    facts = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text("utf-8"))
    names = {header: name for name, headers in facts["names"].items() for header in headers}
    return {**facts, "names": names}


def _name(header: str) -> str:
    table, header = _table(), header.lower().strip()
    if header in table["names"]:
        return str(table["names"][header])
    for name in table["contained"]:
        if name in header:
            return str(name)
    return "findings" if any(words in header for words in table["titles"]) else header


def published_pieces(text: str) -> list[Piece]:
    """Return the sections of `text` in order, empty Findings and Impressions left out.

    Without either, what follows the first blank line of the last section is `last_paragraph`.
    """
    pieces, header = [], _HEADER.search(text)
    pieces.append(Piece("preamble", 0, header.start(1)) if header else _whole(text))
    while header:
        start = header.end()
        # Its search goes on behind the first line break of the body, so a header directly below
        # an empty one is missed where that one's last blank was the line break.
        after = _HEADER.search(text, max(start, text.find("\n", start)))
        end = after.start() if after else len(text)
        pieces.append(Piece(_name(header[1]), start, end))
        header = after
    pieces = [p for p in pieces if p.name not in _TEXT or text[p.start : p.end].strip()]
    if any(piece.name in _TEXT for piece in pieces):
        return pieces
    last = pieces[-1]
    cut = text.find(_BLANK_LINE, last.start, last.end)
    if cut >= 0:
        pieces[-1] = last._replace(end=cut)
        pieces.append(Piece("last_paragraph", cut + len(_BLANK_LINE), last.end))
    return pieces


def _whole(text: str) -> Piece:
    return Piece("full report", 0, len(text))
