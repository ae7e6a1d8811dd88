"""A phantom of SIIM-ACR Pneumothorax Segmentation, in the layouts of its two stages.

Layout, column names, blanks and run lengths: the challenge's files on Kaggle. The regions are the
free air that is drawn, and every picture has 1024 x 1024 pixels, since run lengths count these.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..pixels.mask import runs_of
from .drawing.dicom import JPEG, dicom_bytes
from .drawing.film import Finding, draw_film, draws, place
from .drawing.packing import csv_bytes, write_file

SIDE = 1024
PREFIX = "1.2.276.0.7230010.3.1"
POSITIVE_SHARE = 0.3
OTHER_SHARE = 0.35
OTHERS = ("Cardiomegaly", "Pleural Effusion", "Pneumonia")
BOTH_SIDES, TWO_ROWS = 0.15, 0.4
UNLABELLED = 8  # one picture of the test folder for so many labelled ones


def write_siim(folder: Path, *, pictures: int, seed: int, size: int = 128, stage: int = 1) -> None:
    """Write a phantom of `pictures` labelled pictures below `folder`, in the layout of a stage.

    Films are drawn with `size` x `size` pixels, a divisor of 1024, each then repeated. About 30 %
    show a pneumothorax; some have its region in two rows that overlap. A few pictures without
    labels lie in the test folder. Equal arguments give equal bytes.
    """
    rng = draws(seed, "siim", "ids", pictures)
    names = [_draw_uids(rng) for _ in range(pictures + max(1, pictures // UNLABELLED))]
    rows: list[tuple[str, str]] = []
    for number, (study, series, image_id) in enumerate(names):
        data, regions = _picture((study, series, image_id), seed, size)
        part = "train" if number < pictures else "test"
        place_ = f"dicom-images-{part}/{study}/{series}"
        if stage == 2:
            place_ = "dicom-images-train" if part == "train" else "stage_2_images"
        write_file(folder / place_ / f"{image_id}.dcm", data)
        if part == "train":
            rows += [(image_id, runs) for runs in regions] or [(image_id, "-1")]
    blank, name = (" ", "train-rle.csv") if stage == 1 else ("", "stage_2_train.csv")
    table = [(image_id, f"{blank}{runs}") for image_id, runs in rows]
    write_file(folder / name, csv_bytes(("ImageId", f"{blank}EncodedPixels"), table))


def _draw_uids(rng: np.random.Generator) -> tuple[str, str, str]:
    """Draw the ids of study, series and picture as the challenge's look."""
    tail = f"8323329.{rng.integers(300, 32000)}.{1517875160 + int(rng.integers(0, 90))}"
    study, series, image = (f"{tail}.{rng.integers(100000, 999999)}" for _ in range(3))
    return f"{PREFIX}.2.{study}", f"{PREFIX}.3.{series}", f"{PREFIX}.4.{image}"


def _draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    share = rng.random()
    if share < POSITIVE_SHARE:
        first = place("Pneumothorax", rng)
        other = "left" if first.side == "right" else "right"
        both = rng.random() < BOTH_SIDES
        return (first, Finding(name=first.name, side=other)) if both else (first,)
    return (place(str(rng.choice(OTHERS)), rng),) if share < POSITIVE_SHARE + OTHER_SHARE else ()


def _picture(uids: tuple[str, str, str], seed: int, size: int) -> tuple[bytes, list[str]]:
    """Return the DICOM file (8-bit JPEG, as in the challenge) and the run lengths of its air."""
    study, series, name = uids
    rng = draws(seed, "siim", "picture", name)
    view = str(rng.choice(["AP", "PA"]))
    findings = _draw_findings(rng)
    film = draw_film(findings, height=size, width=size, view=view, seed=seed, name=name)
    tags = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": name,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "Modality": "CR",
        "ConversionType": "WSI",
        "PatientSex": str(rng.choice(["F", "M"])),
        "PatientAge": f"{rng.integers(18, 90):03d}Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "PixelSpacing": ["0.168", "0.168"],
    }
    levels_HW = enlarged((film.pixels >> 4).astype(np.uint8))
    air_HW = enlarged(film.air.astype(np.uint8)) > 0
    parts = [air_HW]
    if rng.random() < TWO_ROWS:
        row, reach = int(np.argmax(air_HW.any(axis=1))) + SIDE // 8, SIDE // 32
        parts = [air_HW & (np.arange(SIDE) < row + reach)[:, None]]
        parts.append(air_HW & (np.arange(SIDE) >= row)[:, None])
    regions = [runs_of(part) for part in parts if part.any()]
    return dicom_bytes(levels_HW, tags, bits=8, syntax=JPEG), regions


def enlarged(pixels_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return pixels [H, W] repeated to 1024 x 1024."""
    times = SIDE // pixels_HW.shape[0]
    return np.repeat(np.repeat(pixels_HW, times, axis=0), times, axis=1)
