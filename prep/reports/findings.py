"""The labels of a report, read in its sentences by rules: 14 findings, with negation.

The label names, their values and the way in which sentences are put together are those of CheXpert
(Irvin et al. 2019, arXiv 1901.07031, section 3); the terms and rules are our own, in findings.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .assertions import ABSENT, PRESENT, UNCERTAIN, read_assertions
from .lexicon import OTHER, finding_lexicon

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"


def report_labels(sentences: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the labels that a report's sentences, by section, state.

    1 present, 0 absent, -1 uncertain; a label that nothing is said of is left out. Of several
    statements present wins over uncertain, and uncertain over absent. No Finding is 1 where no
    finding is present or uncertain, not even one outside the labels; devices do not count. A
    report without a sentence has no label.
    """
    lexicon = finding_lexicon()
    said: dict[str, set[float]] = {}
    texts = dict.fromkeys(text for lines in sentences.values() for text in lines)
    for text in texts:
        for assertion in read_assertions(text, lexicon):
            if assertion.value is not None:
                said.setdefault(assertion.label, set()).add(assertion.value)
    labels = {
        label: next(value for value in (PRESENT, UNCERTAIN, ABSENT) if value in values)
        for label, values in sorted(said.items())
    }
    if texts and not any(labels[label] for label in labels if label != SUPPORT_DEVICES):
        labels[NO_FINDING] = PRESENT
    labels.pop(OTHER, None)
    return labels
