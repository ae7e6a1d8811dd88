"""A phantom of the Indiana University (Open-i) collection, in the layout of its download.

`ecgen-radiology.tar.gz` holds one XML a report with the elements of the real ones that carry text,
terms and pictures; the pictures lie in `images/`, named as in the XML.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

from .drawing.film import LATERAL, Finding, draw_film, draw_findings, draws
from .drawing.packing import gzip_bytes, tar_bytes, write_file
from .drawing.wording import Wording, write_wording

CAPTION = "Xray Chest PA and Lateral"
MARKED = "The XXXX are grossly unremarkable."
TERMS = {
    "Cardiomegaly": "Cardiomegaly",
    "Edema": "Pulmonary Edema",
    "Pneumonia": "Pneumonia/{zone} lobe/{side}",
    "Lung Opacity": "Opacity/lung/{zone} lobe/{side}",
    "Pleural Effusion": "Pleural Effusion/{side}",
    "Pneumothorax": "Pneumothorax/{side}",
}
PAGE = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{number}"/>
   <pmcId id="{number}"/>
   <docSource>CXR</docSource>
   <IUXRId id="{number}"/>
   <title>Phantom Chest X-ray Collection</title>
   <note>Synthetic: drawn and worded by a program.</note>
   <MedlineCitation Owner="phantom" Status="synthetic">
      <Article PubModel="Electronic">
         <ArticleTitle>Phantom Chest X-ray Collection</ArticleTitle>
         <Abstract>
{texts}
         </Abstract>
         <Language>eng</Language>
      </Article>
   </MedlineCitation>
   <MeSH>
{terms}
   </MeSH>
{pictures}
</eCitation>"""
PICTURE = """   <parentImage id="{name}">
      <figureId>F{figure}</figureId>
      <caption>{caption}</caption>
      <panel type="single">
         <url>/hadoop/storage/radiology/extract/{name}.jpg</url>
         <imgModality>7</imgModality>
      </panel>
   </parentImage>"""


def write_openi(folder: Path, *, studies: int, seed: int, size: int = 96) -> None:
    """Write a phantom of `studies` reports and their pictures; equal arguments give equal bytes.

    `size` is the longest side of a picture. Some reports have no picture, some an empty section,
    and many Findings hold the mark XXXX, as in the collection.
    """
    pages = {}
    for number in range(1, studies + 1):
        rng = draws(seed, "openi", number)
        findings = draw_findings(rng)
        wording = _with_gaps(write_wording(findings, rng), rng)
        names = _names(number, rng)
        for name, view in names.items():
            png = _picture(name, findings, view=view, seed=seed, size=size)
            write_file(folder / "images" / f"{name}.png", png)
        page = _page(number, findings, wording, list(names))
        pages[f"ecgen-radiology/{number}.xml"] = page.encode()
    write_file(folder / "ecgen-radiology.tar.gz", gzip_bytes(tar_bytes(pages)))


def _with_gaps(wording: Wording, rng: np.random.Generator) -> Wording:
    """Empty a section of some reports, and put a de-identification mark into others."""
    share = rng.random()
    if share < 0.12:
        return Wording(findings="", impression=wording.impression)
    if share < 0.15:
        return Wording(findings=wording.findings, impression="")
    marked = f" {MARKED}" if share < 0.5 else ""
    return Wording(findings=wording.findings + marked, impression=wording.impression)


def _names(number: int, rng: np.random.Generator) -> dict[str, str]:
    """Return the pictures' names with their views: none for one report in twelve."""
    stem = f"CXR{number}_IM-{int(rng.integers(1, 3000)):04d}"
    count = int(rng.choice([0, 1, 2], p=[0.08, 0.12, 0.8]))
    return dict([(f"{stem}-1001", "PA"), (f"{stem}-2001", LATERAL)][:count])


def _picture(name: str, findings: tuple[Finding, ...], *, view: str, seed: int, size: int) -> bytes:
    """Return a film as an 8-bit PNG, a sixth narrower than high."""
    film = draw_film(
        findings, height=size, width=round(size * 5 / 6), view=view, seed=seed, name=name
    )
    _, data = cv2.imencode(".png", (film.pixels >> 4).astype(np.uint8))
    return bytes(data)


def _page(number: int, findings: Sequence[Finding], wording: Wording, names: Sequence[str]) -> str:
    texts = {
        "COMPARISON": "None.",
        "INDICATION": "XXXX-year-old with XXXX.",
        "FINDINGS": wording.findings,
        "IMPRESSION": wording.impression,
    }
    terms = [TERMS[f.name].format(side=f.side, zone=f.zone) for f in findings]
    pictures = [
        PICTURE.format(name=name, figure=figure, caption=CAPTION)
        for figure, name in enumerate(names, start=1)
    ]
    return PAGE.format(
        number=number,
        texts="\n".join(_abstract(label, text) for label, text in texts.items()),
        terms="\n".join(_terms(terms)),
        pictures="\n".join(pictures),
    )


def _abstract(label: str, text: str) -> str:
    start = f'            <AbstractText Label="{label}"'
    return f"{start}>{escape(text)}</AbstractText>" if text else f"{start}/>"


def _terms(terms: Sequence[str]) -> list[str]:
    """Return MeSH lines: the coded terms, and the plain ones found by machine."""
    automatic = sorted({term.split("/")[0].lower() for term in terms})
    return [f"      <major>{escape(term)}</major>" for term in terms or ["normal"]] + [
        f"      <automatic>{escape(term)}</automatic>" for term in automatic
    ]
