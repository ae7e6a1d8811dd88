"""Phantom films and their words: boxes enclose, findings lie where they belong, labels agree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.prep.phantoms.drawing.film import (
    LATERAL,
    OPACITIES,
    Finding,
    draw_film,
    draw_findings,
    draws,
)
from imitate.prep.phantoms.drawing.wording import LABELS, labels_in, labels_of, write_wording


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(OPACITIES),
    side=st.sampled_from(["left", "right"]),
    zone=st.sampled_from(["upper", "lower"]),
    view=st.sampled_from(["AP", "PA", LATERAL]),
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(96, 96), (96, 80), (80, 96)]),
)
def test_box_encloses_the_opacity_exactly(
    name: str, side: str, zone: str, view: str, seed: int, shape: tuple[int, int]
) -> None:
    drawing = {"height": shape[0], "width": shape[1], "view": view, "seed": seed, "name": "x"}
    finding = Finding(name=name, side=side, zone=zone)
    film, clear = draw_film((finding,), **drawing), draw_film((), **drawing)
    changed = film.pixels.astype(int) - clear.pixels
    ((x, y, w, h),) = film.boxes
    inside = np.zeros(shape, bool)
    inside[y : y + h, x : x + w] = True
    assert (changed[~inside] == 0).all()
    assert changed[inside].mean() > 300
    assert w >= 0.1 * shape[1] and h >= 0.1 * shape[0]
    if view != LATERAL:
        middle = x + w / 2 < shape[1] / 2
        assert middle == (side == "right")


def test_anatomy_findings_change_where_they_belong() -> None:
    def difference(name: str, side: str = "") -> np.ndarray:
        drawing = {"height": 96, "width": 96, "view": "PA", "seed": 5, "name": "y"}
        shown = draw_film((Finding(name=name, side=side),), **drawing)
        return shown.pixels.astype(int) - draw_film((), **drawing).pixels

    assert difference("Pleural Effusion", "left")[:36].max() == 0
    assert difference("Pleural Effusion", "left")[48:, 48:].max() > 800
    assert difference("Pneumothorax", "right")[:, :40].min() < -200
    assert (difference("Pneumothorax", "right")[:, 60:] == 0).all()
    edema = difference("Edema")
    assert edema[:, :48].max() > 300 and edema[:, 48:].max() > 300
    assert difference("Cardiomegaly").sum() > 100_000


@given(seed=st.integers(0, 2**32))
def test_labels_read_from_the_sentences_are_what_was_drawn(seed: int) -> None:
    rng = draws(seed, "test")
    findings = draw_findings(rng)
    said = write_wording(findings, rng).labels
    truth = labels_of(findings)
    assert set(said) <= set(LABELS)
    for label, value in said.items():
        uncertain = label == "Pneumonia" and "Lung Opacity" in {f.name for f in findings}
        assert value == (-1.0 if uncertain else truth[label])
    assert {label for label, value in truth.items() if value} <= set(said)


def test_labels_of_foreign_and_empty_text() -> None:
    assert labels_in("") == {}
    assert labels_in("Normal.") == {"No Finding": 1.0}
    assert labels_in("Left lower\n lobe pneumonia.") == {"Lung Opacity": 1.0, "Pneumonia": 1.0}
