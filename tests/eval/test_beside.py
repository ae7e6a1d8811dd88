"""Several encoders of one set as one table."""

from typing import Any

from imitate.eval.results.beside import by_set, side_by_side


def document(name: str, random: float, **over: Any) -> dict[str, Any]:
    own = {"task": "linear", "metric": "auroc", "run_digest": name, "pretrain_seed": 3}
    rows = [own | {"encoder": name, "value": 0.8}]
    rows.append(own | {"encoder": "no-pixels", "value": 0.5})
    rows.append(own | {"encoder": "random", "value": random})
    known = {"dataset": "rsna", "protocol": "clean", "encoder": {"name": name}, "rows": rows}
    return known | {"cells": [name], "damaged": ["k1"], "published": [{"value": 1}]} | over


def encoders(told: Any) -> list[str]:
    return [row["encoder"] for row in told["rows"]]


def test_encoders_come_first_and_equal_controls_once() -> None:
    told = side_by_side([document("one", 0.6), document("two", 0.6)])
    assert encoders(told) == ["one", "two", "random", "no-pixels"]
    assert told["cells"] == ["one", "two"]
    assert told["damaged"] == ["k1"] and told["published"] == [{"value": 1}]


def test_a_control_that_differs_is_named_after_its_encoder() -> None:
    told = side_by_side([document("one", 0.6), document("two", 0.7)])
    assert encoders(told) == ["one", "two", "random of one", "random of two", "no-pixels"]


def test_a_control_names_all_encoders_beside_which_it_is_the_same() -> None:
    told = side_by_side([document("one", 0.6), document("two", 0.7), document("three", 0.6)])
    assert encoders(told)[3:5] == ["random of one, three", "random of two"]


def test_an_encoder_without_a_task_has_no_control_of_it() -> None:
    other = document("two", 0.7)
    other["rows"] = [row | {"task": "zeroshot"} for row in other["rows"]]
    told = side_by_side([document("one", 0.6), other])
    seen = [(row["task"], row["encoder"]) for row in told["rows"] if row["encoder"] == "random"]
    assert seen == [("linear", "random"), ("zeroshot", "random")]


def test_one_document_stays_as_it_is() -> None:
    alone = document("one", 0.6)
    assert side_by_side([alone]) is alone


def test_sets_and_protocols_are_kept_apart() -> None:
    documents = [
        document("one", 0.6),
        document("one", 0.6, dataset="nih"),
        document("two", 0.6),
        document("two", 0.6, protocol="paper"),
    ]
    names = [[each["encoder"]["name"] for each in together] for together in by_set(documents)]
    assert names == [["one", "two"], ["one"], ["two"]]
