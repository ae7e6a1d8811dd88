"""What a phantom's report says: fixed sentences, and the labels that follow from them.

`write_wording` words drawn findings; `labels_in` reads labels back from a text, as a report labeler
does, so that a report with a section missing has the labels of what is left.
Label names and their order: the MIMIC-CXR-JPG project page, `mimic-cxr-2.0.0-chexpert.csv.gz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .film import OPACITIES, Finding

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)

FINDING_SENTENCES = {
    "Cardiomegaly": ("The heart is enlarged.", "There is moderate cardiomegaly."),
    "Edema": (
        "Diffuse bilateral haze is consistent with pulmonary edema.",
        "There is moderate pulmonary edema.",
    ),
    "Pneumonia": (
        "There is a {side} {zone} lobe opacity concerning for pneumonia.",
        "Focal opacity in the {side} {zone} lobe is compatible with pneumonia.",
    ),
    "Lung Opacity": (
        "There is a {side} {zone} lobe opacity.",
        "A hazy opacity is seen in the {side} {zone} lobe.",
    ),
    "Pleural Effusion": (
        "There is a moderate {side} pleural effusion.",
        "Blunting of the {side} costophrenic angle is due to a pleural effusion.",
    ),
    "Pneumothorax": ("There is a {side} pneumothorax.", "A {side} pneumothorax is present."),
}
FINDING_IMPRESSIONS = {
    "Cardiomegaly": ("Cardiomegaly.", "Moderate cardiomegaly."),
    "Edema": ("Pulmonary edema.", "Moderate pulmonary edema."),
    "Pneumonia": (
        "{Side} {zone} lobe pneumonia.",
        "Findings concerning for {side} {zone} lobe pneumonia.",
    ),
    "Lung Opacity": ("{Side} {zone} lobe opacity, possibly pneumonia.",),
    "Pleural Effusion": ("{Side} pleural effusion.", "Moderate {side} pleural effusion."),
    "Pneumothorax": ("{Side} pneumothorax.",),
}
NORMAL_SENTENCES = {  # in the order in which a report names what is normal
    ("Cardiomegaly",): ("The heart size is normal.", "The cardiac silhouette is normal in size."),
    ("Lung Opacity",): ("The lungs are clear.", "The lungs are clear without focal opacity."),
    ("Edema",): ("There is no pulmonary edema.",),
    ("Pleural Effusion", "Pneumothorax"): (
        "There is no pleural effusion or pneumothorax.",
        "No pleural effusion or pneumothorax.",
    ),
    ("Pleural Effusion",): ("There is no pleural effusion.", "No pleural effusion."),
    ("Pneumothorax",): ("There is no pneumothorax.", "No pneumothorax."),
}
NORMAL_IMPRESSIONS = {  # sentence -> how often
    "No acute cardiopulmonary process.": 0.5,
    "No acute cardiopulmonary abnormality.": 0.35,
    "No evidence of pneumonia.": 0.15,
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The two sections of a phantom report; empty when absent."""

    findings: str
    impression: str

    @property
    def labels(self) -> dict[str, float]:
        """Labels that the two sections state."""
        return labels_in(f"{self.findings} {self.impression}")


def write_wording(findings: Sequence[Finding], rng: np.random.Generator) -> Wording:
    """Word what a film shows, and what it does not show, as a report would."""

    def pick(variants: Sequence[str]) -> str:
        return str(variants[int(rng.integers(len(variants)))])

    present = {"Lung Opacity" if f.name in OPACITIES else f.name for f in findings}
    present |= {"Lung Opacity"} if "Edema" in present else set()  # such lungs are not clear
    pair = bool(rng.random() < 0.5)
    words = [_fill(pick(FINDING_SENTENCES[f.name]), f) for f in findings]
    for names, variants in NORMAL_SENTENCES.items():
        pleural = {"Pleural Effusion", "Pneumothorax"}
        together = pair and not present & pleural
        wanted = (len(names) == 2) == together if set(names) <= pleural else True
        said = names[0] != "Edema" or rng.random() < 0.3
        if wanted and said and not present & set(names):
            words.append(pick(variants))
    ends = [_fill(pick(FINDING_IMPRESSIONS[f.name]), f) for f in findings]
    normal = rng.choice(list(NORMAL_IMPRESSIONS), p=list(NORMAL_IMPRESSIONS.values()))
    return Wording(findings=" ".join(words), impression=" ".join(ends or [str(normal)]))


def labels_in(text: str) -> dict[str, float]:
    """Return the labels that the sentences of `text` state: 1 present, 0 absent, -1 uncertain.

    Sentences that are not phantom sentences say nothing; a text without a present or uncertain
    label is No Finding, an empty one has no label at all.
    """
    stated: dict[str, set[float]] = {}
    for sentence in " ".join(text.split()).split(". "):
        for label, value in _MEANING.get(sentence.rstrip(".") + ".", {}).items():
            stated.setdefault(label, set()).add(value)
    labels = {
        label: next(value for value in (1.0, -1.0, 0.0) if value in values)
        for label, values in sorted(stated.items())
    }
    if text.strip() and not set(labels.values()) & {1.0, -1.0}:
        labels["No Finding"] = 1.0
    return labels


def labels_of(findings: Sequence[Finding]) -> dict[str, float]:
    """Return what the film truly shows: 1 or 0 for each of the 14 labels."""
    present = {f.name for f in findings}
    if present & set(OPACITIES):
        present.add("Lung Opacity")
    return {
        label: float(label in present or (label == "No Finding" and not present))
        for label in LABELS
    }


def _fill(template: str, finding: Finding) -> str:
    side = finding.side
    return template.format(side=side, Side=side.capitalize(), zone=finding.zone)


def _meanings() -> dict[str, dict[str, float]]:
    """Return the labels of every sentence that a phantom report can hold."""
    stated = {name: {name: 1.0} for name in FINDING_SENTENCES}
    stated["Pneumonia"] = {"Lung Opacity": 1.0, "Pneumonia": 1.0}
    meaning: dict[str, dict[str, float]] = {}
    for name, side, zone in product(FINDING_SENTENCES, ("right", "left"), ("upper", "lower")):
        finding = Finding(name=name, side=side, zone=zone)
        for template in FINDING_SENTENCES[name] + FINDING_IMPRESSIONS[name]:
            labels = dict(stated[name])
            if "possibly pneumonia" in template:
                labels["Pneumonia"] = -1.0
            meaning[_fill(template, finding)] = labels
    for names, variants in NORMAL_SENTENCES.items():
        meaning.update(dict.fromkeys(variants, dict.fromkeys(names, 0.0)))
    return meaning | {"No evidence of pneumonia.": {"Pneumonia": 0.0}}


_MEANING = _meanings()
