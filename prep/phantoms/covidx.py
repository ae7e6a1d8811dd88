"""A phantom of COVIDx as Kaggle serves it: lists without a header, and a folder for each.

Layout and words: the lists of lindawangg/COVID-Net, `patient file class source`. Like the real
collection it is confounded: in the test list the class follows from the source.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .drawing.film import Finding, draw_film, draws
from .drawing.packing import write_file

BINARY = {"normal": "negative", "pneumonia": "negative", "COVID-19": "positive"}
PNEUMONIA_SHARE = 0.4  # of the patients without COVID-19
MORE_PICTURES = (0.5, 0.3, 0.2)  # how often a COVID-19 patient has one, two or three
ENDINGS = {"rsna": "png", "cohen": "jpeg", "ricord": "png", "stonybrook": "jpg"}


@dataclass(frozen=True, kw_only=True)
class _Patient:
    """One patient: the id and source of the lists, the class, and the pictures' names."""

    name: str
    origin: str
    kind: str
    pictures: tuple[str, ...]


def write_covidx(
    folder: Path, *, patients: int, seed: int, size: int = 128, classes: int = 2
) -> None:
    """Write a phantom of `patients`; half have COVID-19, drawn as opacities in both lower lungs.

    `size` is a picture's height. One patient in five is in the test list. With 3 classes the lists
    are named as those of COVIDx 9A, else `train.txt` and `test.txt`. Equal arguments give equal
    bytes.
    """
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for index in range(patients):
        split = "test" if index % 5 == 4 else "train"
        patient = _draw_patient(index, seed, test=split == "test")
        word = patient.kind if classes == 3 else BINARY[patient.kind]
        for name in patient.pictures:
            write_file(folder / split / name, _picture(name, patient, seed, size))
            lines[split].append(f"{patient.name} {name} {word} {patient.origin}\n")
    version = "_COVIDx9A" if classes == 3 else ""
    for split, rows in lines.items():
        write_file(folder / f"{split}{version}.txt", "".join(rows).encode())


def _draw_patient(index: int, seed: int, *, test: bool) -> _Patient:
    rng = draws(seed, "covidx", "patient", index)
    if index % 2:
        origin = "ricord" if test else str(rng.choice(["stonybrook", "ricord"], p=[0.85, 0.15]))
        return _with_covid(rng, origin)
    origin = "rsna" if test else str(rng.choice(["rsna", "cohen"], p=[0.95, 0.05]))
    kind = "pneumonia" if rng.random() < PNEUMONIA_SHARE else "normal"
    name = str(uuid.UUID(bytes=rng.bytes(16), version=4))  # RSNA's ids name pictures
    patient = name if origin == "rsna" else str(index)
    pictures = (f"{name}.{ENDINGS[origin]}",)
    return _Patient(name=patient, origin=origin, kind=kind, pictures=pictures)


def _with_covid(rng: np.random.Generator, origin: str) -> _Patient:
    """Return a patient with COVID-19 with one to three pictures, named as the source names them."""
    number = int(rng.integers(100_000, 1_000_000))
    ricord = origin == "ricord"
    name = f"419639-{number}" if ricord else f"A{number}"
    stem = f"MIDRC-RICORD-1C-{name}" if ricord else f"{name}-01-01-1901-NA-CHEST_AP_PORT"
    count = 1 + int(rng.choice(3, p=MORE_PICTURES))
    pictures = tuple(
        f"{stem}-{int(rng.integers(10_000, 100_000))}-{order}.{ENDINGS[origin]}"
        for order in range(count)
    )
    return _Patient(name=name, origin=origin, kind="COVID-19", pictures=pictures)


def _picture(name: str, patient: _Patient, seed: int, size: int) -> bytes:
    """Return a film as a grey PNG or JPEG; those of the hospitals are narrower than high."""
    rng = draws(seed, "covidx", "picture", name)
    width = size if patient.origin == "rsna" else round(size * 5 / 6)
    film = draw_film(
        _findings(patient.kind, rng), height=size, width=width, view="AP", seed=seed, name=name
    )
    levels_HW = (film.pixels >> 4).astype(np.uint8)
    _, data = cv2.imencode(f".{name.rpartition('.')[2]}", levels_HW)
    return bytes(data)


def _findings(kind: str, rng: np.random.Generator) -> tuple[Finding, ...]:
    if kind == "normal":
        return ()
    if kind == "pneumonia":
        return (Finding(name="Pneumonia", side=str(rng.choice(["right", "left"])), zone="upper"),)
    return tuple(Finding(name="Pneumonia", side=side, zone="lower") for side in ("right", "left"))
