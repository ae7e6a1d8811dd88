"""Facts beside the texts, and the likeness they give to pairs, against loops over pairs."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.train.objective.reports.facts import label_likeness, person_likeness, read_facts

SAMPLES = [
    {
        "report_labels": {"Edema": 1.0, "Effusion": 0.0},
        "view": "PA",
        "metadata": {"sex": "F", "age": "61"},
    },
    {"report_labels": {"Edema": -1.0}, "view": "LATERAL", "metadata": {"sex": "M"}},
    {"report_labels": {}, "view": None, "metadata": {"age": "4"}},
    {"report_labels": {"No Finding": 1.0}, "view": "LL", "metadata": {}},
    {"key": "what a damaged sample is", "view": "", "metadata": "", "report_labels": ""},
]


def test_facts_are_those_of_the_documents() -> None:
    facts = read_facts(SAMPLES)
    # Edema, Effusion, No Finding: present 1, uncertain a half, absent and untold 0
    expected = [[1, 0, 0], [0.5, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert facts["labels"].tolist() == expected
    assert facts["lateral"].tolist() == [False, True, False, True, False]
    view, sex = facts["view"], facts["sex"]
    assert view[2] == view[4] == sex[2] == sex[3] == -1
    assert len({view[0], view[1], view[3]}) == 3
    assert sex[0] != sex[1]
    assert facts["age"].tolist()[0::2][:2] == [61, 4]
    assert np.isnan(facts["age"][[1, 3, 4]]).all()


def naive_labels(one: list[float], other: list[float]) -> float:
    both = sum(min(a, b) for a, b in zip(one, other, strict=True))
    either = sum(max(a, b) for a, b in zip(one, other, strict=True))
    return both / either if either else 0.0


def naive_person(one: tuple, other: tuple) -> float:
    likeness, known = 1.0, False
    for a, b in zip(one[:2], other[:2], strict=True):
        if a >= 0 and b >= 0:
            known = True
            likeness *= a == b
    if not (math.isnan(one[2]) or math.isnan(other[2])):
        known = True
        likeness *= max(0.0, 1 - abs(one[2] - other[2]) / 20)
    return likeness if known else 0.0


PERSON = st.tuples(
    st.integers(-1, 2), st.integers(-1, 1), st.sampled_from([math.nan, 20.0, 25.0, 39.0, 70.0])
)
LABELS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(LABELS, PERSON), min_size=1, max_size=6))
def test_likeness_equals_a_double_loop(samples: list) -> None:
    labels = torch.tensor([labels for labels, _ in samples])
    view, sex, age = (torch.tensor(column) for column in zip(*[p for _, p in samples], strict=True))
    ours = label_likeness(labels)
    people = person_likeness(view, sex, age.float())
    for i, (one, first) in enumerate(samples):
        for j, (other, second) in enumerate(samples):
            assert math.isclose(ours[i, j], naive_labels(one, other), abs_tol=1e-6)
            assert math.isclose(people[i, j], naive_person(first, second), abs_tol=1e-6)


def test_a_finding_that_is_denied_is_not_shared() -> None:
    said, denied, normal = (
        {"report_labels": labels}
        for labels in (
            {"Edema": 1.0},
            {"Edema": 0.0, "Effusion": 1.0},
            {"Edema": 0.0, "No Finding": 1.0},
        )
    )
    labels = torch.from_numpy(read_facts([said, denied, normal, normal])["labels"])
    likeness = label_likeness(labels)
    assert likeness[0, 1] == likeness[0, 2] == likeness[1, 2] == 0
    assert likeness[2, 3] == 1
