"""A phantom of NIH ChestX-ray14, in the layout of its download.

Layout and column names: the NIH Clinical Center's files (Data_Entry_2017_v2020.csv, its lists and
BBox_List_2017.csv). Two columns have a comma inside their names, and every row ends in a comma. A
box encloses a drawn opacity exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .drawing.film import OPACITIES, Finding, draw_film, draw_findings, draws
from .drawing.packing import csv_bytes, write_file

NAMES = {"Lung Opacity": "Infiltration", "Pleural Effusion": "Effusion"}  # where NIH's name differs
BOX_NAMES = {"Infiltration": "Infiltrate"}  # the boxes' table has a spelling of its own
FOLDERS = 12
TEST_SHARE = 0.23
RGBA_SHARE = 0.04  # the download holds a few pictures with an opaque alpha channel
ENTRY_COLUMNS = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age"),
    *("Patient Gender", "View Position", "OriginalImage[Width", "Height]"),
    *("OriginalImagePixelSpacing[x", "y]", ""),
)
BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", "")


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """One picture: its file, its row of the entries' table, its rows of the boxes' table."""

    name: str
    png: bytes
    entry: tuple[object, ...]
    boxes: list[tuple[object, ...]]


def write_nih(folder: Path, *, patients: int, seed: int, size: int = 128) -> None:
    """Write a phantom of `patients` with one to three pictures of `size` x `size` pixels each.

    The official lists are by patient; boxes exist for pictures of the test list alone. Equal
    arguments give equal bytes.
    """
    order = draws(seed, "nih", "test", patients).permutation(patients)
    held_out = {int(index) for index in order[: max(1, round(TEST_SHARE * patients))]}
    by_patient = [_draw_patient(index + 1, seed, size) for index in range(patients)]
    drawn = [picture for pictures in by_patient for picture in pictures]
    for number, picture in enumerate(drawn):
        place = f"images_{number * FOLDERS // len(drawn) + 1:03d}"
        write_file(folder / place / "images" / picture.name, picture.png)
    entries = csv_bytes(ENTRY_COLUMNS, [picture.entry for picture in drawn])
    write_file(folder / "Data_Entry_2017_v2020.csv", entries)
    lists: dict[bool, list[_Drawn]] = {False: [], True: []}
    for index, pictures in enumerate(by_patient):
        lists[index in held_out] += pictures
    for name, pictures in (("train_val_list.txt", lists[False]), ("test_list.txt", lists[True])):
        write_file(folder / name, "".join(f"{picture.name}\n" for picture in pictures).encode())
    boxes = [row for picture in lists[True] for row in picture.boxes]
    write_file(folder / "BBox_List_2017.csv", csv_bytes(BOX_COLUMNS, boxes))


def _draw_patient(number: int, seed: int, size: int) -> list[_Drawn]:
    rng = draws(seed, "nih", "patient", number)
    sex, age = str(rng.choice(["F", "M"])), int(rng.integers(18, 90))
    count = int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    return [
        _draw_picture(number, follow_up, (sex, age + follow_up), seed, size)
        for follow_up in range(count)
    ]


def _draw_picture(
    number: int, follow_up: int, person: tuple[str, int], seed: int, size: int
) -> _Drawn:
    name = f"{number:08d}_{follow_up:03d}.png"
    rng = draws(seed, "nih", "picture", name)
    findings = draw_findings(rng)
    view = str(rng.choice(["AP", "PA"], p=[0.4, 0.6]))
    film = draw_film(findings, height=size, width=size, view=view, seed=seed, name=name)
    levels_HW = (film.pixels >> 4).astype(np.uint8)
    shown = cv2.cvtColor(levels_HW, cv2.COLOR_GRAY2BGRA)
    _, data = cv2.imencode(".png", shown if rng.random() < RGBA_SHARE else levels_HW)
    sex, age = person
    original = (2048, 2500, 0.171, 0.171)
    labels = "|".join(sorted(map(_name_of, findings))) or "No Finding"
    marked = [f for f in findings if f.name in OPACITIES]
    boxes = [
        (name, BOX_NAMES.get(_name_of(f), _name_of(f)), *map(float, box), "", "", "")
        for f, box in zip(marked, film.boxes, strict=True)
    ]
    entry = (name, labels, follow_up, number, age, sex, view, *original, "")
    return _Drawn(name=name, png=bytes(data), entry=entry, boxes=boxes)


def _name_of(finding: Finding) -> str:
    return NAMES.get(finding.name, finding.name)
