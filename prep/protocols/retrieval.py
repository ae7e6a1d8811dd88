"""CheXpert 5x200: the 1,000 frontal films with exactly one of five findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# must be 0 or blank besides the other four; No Finding and uncertain labels of it do not count
OTHERS = (
    "Enlarged Cardiomediastinum",
    "Lung Lesion",
    "Lung Opacity",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
EACH = 200
FIVE_BY_200 = "5x200"  # in a film's metadata: its finding, if it is of this set


def five_by_200(ids: Sequence[str], labels: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return the finding of each film of the set, drawn from `ids` in the order of train.csv.

    Drawn as MGCA does (HKU-MedAI/MGCA, preprocess/chexpert.py): of the frontal films with this
    finding alone, 200 by `sample(random_state=0)`; fewer where there are fewer.
    """
    found: dict[str, str] = {}
    for finding in FINDINGS:
        alone = [image_id for image_id in ids if _alone(image_id, finding, labels)]
        size = min(EACH, len(alone))
        drawn = np.random.RandomState(0).choice(len(alone), size=size, replace=False)
        found.update({alone[position]: finding for position in drawn})
    return found


def _alone(image_id: str, finding: str, labels: Mapping[str, Mapping[str, float]]) -> bool:
    told = labels.get(image_id, {})
    return (
        image_id.endswith("_frontal")
        and told.get(finding) == 1
        and all(told.get(name, 0) == 0 for name in (*FINDINGS, *OTHERS) if name != finding)
    )
