"""Sentences that compare with an earlier study are left out, descriptions of one film stay."""

import pytest

from imitate.train.objective.reports.comparison import without_comparisons

COMPARING = [
    "Moderate edema, unchanged.",
    "There has been interval removal of the tube.",
    "As compared to the previous radiograph, the effusion is larger.",
    "No significant change in the cardiac silhouette.",
    "Stable cardiomegaly.",
    "Edema has improved.",
    "The line is again seen in the right atrium.",
    "Since the prior chest radiograph a new opacity is seen.",
    "The previously noted nodule is no longer visible.",
    "Similar to the last examination.",
]
DESCRIBING = [
    "Increased interstitial markings.",
    "Lung volumes are decreased.",
    "Evidence of prior surgery.",
    "Prior granulomatous disease.",
    "Previous spine surgery.",
    "Minimal degenerative changes of the spine.",
    "No acute bony changes.",
    "A high resolution study may help.",
    "Atelectasis, worse on the right.",
    "The heart is enlarged.",
    "A newspaper is no reason.",
    "Chronic changes of the spine.",
]


@pytest.mark.parametrize("sentence", COMPARING)
def test_comparisons_are_left_out(sentence: str) -> None:
    text = f"The lungs are clear. {sentence} The heart is normal."
    assert without_comparisons(text) == "The lungs are clear. The heart is normal."
    assert without_comparisons(sentence) == ""


@pytest.mark.parametrize("sentence", DESCRIBING)
def test_descriptions_stay(sentence: str) -> None:
    assert without_comparisons(sentence) == sentence


def test_a_decimal_ends_no_sentence() -> None:
    text = "A nodule of 1.5 cm, unchanged. Clear otherwise."
    assert without_comparisons(text) == "Clear otherwise."
