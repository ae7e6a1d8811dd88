"""Facts of a sample beside its texts, and how alike they make two samples.

The findings are those that rules have read in the report, negation included (`report_labels`):
weak supervision. Axes: n samples of a split, N samples of a batch, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Facts = Mapping[str, NDArray[Any]]  # by name, one row a sample

UNCERTAIN = 0.5  # what a finding counts that may be there
YEARS = 20.0  # patients that far apart in age have nothing in common
FRONTAL = ("AP", "PA", "FRONTAL")  # any other known view is lateral, oblique or lordotic


def read_facts(samples: Sequence[Mapping[str, Any]]) -> Facts:
    """Return the facts of samples from their JSON documents, one row each.

    `labels` [n, L]: 1 present, 0.5 uncertain, 0 absent or not told, for the labels that occur,
    sorted by name. `view` and `sex` [n] are equal for equal ones, −1 where unknown; `age` [n] in
    years, NaN where unknown; `lateral` [n] tells films that are not frontal.
    """
    told = [sample.get("report_labels") or {} for sample in samples]
    names = sorted({name for labels in told for name in labels})
    labels_nL = np.array([[_strength(labels.get(name)) for name in names] for labels in told])
    views = [sample.get("view") or "" for sample in samples]
    persons = [sample.get("metadata") or {} for sample in samples]
    return {
        "labels": labels_nL.reshape(len(told), len(names)).astype(np.float32),
        "view": _codes(views),
        "sex": _codes([person.get("sex", "") for person in persons]),
        "age": np.array([float(person.get("age", "nan")) for person in persons], np.float32),
        "lateral": np.array([bool(view) and view not in FRONTAL for view in views], bool),
    }


def _strength(value: float | None) -> float:
    return {1.0: 1.0, -1.0: UNCERTAIN}.get(value or 0.0, 0.0)


def _codes(values: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each value, the same for equal ones, −1 for none."""
    known = {value: i for i, value in enumerate(sorted({v for v in values if v}))}
    return np.array([known.get(value, -1) for value in values], np.int64)


def label_likeness(labels_NL: Tensor) -> Tensor:
    """Return Σ min / Σ max over the labels of every two samples, [N, N], from 0 to 1.

    That is the share of the findings of either that both have (Jaccard; Ružička for halves). Since
    "No Finding" is a label, two normal films are wholly alike; a film of which nothing is known is
    like none.
    """
    both_NN = torch.minimum(labels_NL[:, None], labels_NL[None, :]).sum(dim=2)
    either_NN = torch.maximum(labels_NL[:, None], labels_NL[None, :]).sum(dim=2)
    return both_NN / torch.where(either_NN > 0, either_NN, 1)


def person_likeness(view_N: Tensor, sex_N: Tensor, age_N: Tensor) -> Tensor:
    """Return how alike view, sex and age of every two samples are, [N, N], from 0 to 1.

    1 for the same view and sex at the same age, falling to 0 at 20 years apart, and 0 for another
    view or sex. What is unknown of either is left out; with all unknown they are not alike.
    """
    likeness_NN = torch.ones(len(age_N), len(age_N), device=age_N.device)
    known_NN = torch.zeros_like(likeness_NN, dtype=torch.bool)
    for code_N in (view_N, sex_N):
        both_NN = (code_N >= 0)[:, None] & (code_N >= 0)[None, :]
        differ_NN = both_NN & (code_N[:, None] != code_N[None, :])
        likeness_NN = likeness_NN.masked_fill(differ_NN, 0)
        known_NN = known_NN | both_NN
    apart_NN = (age_N[:, None] - age_N[None, :]).abs() / YEARS
    known_NN = known_NN | ~apart_NN.isnan()
    near_NN = (1 - apart_NN.nan_to_num(0.0)).clamp(min=0)
    return (likeness_NN * near_NN).masked_fill(~known_NN, 0)
