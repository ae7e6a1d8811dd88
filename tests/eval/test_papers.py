"""Tables as papers print them."""

import csv
import io
from typing import Any

from imitate.eval.results.papers import gather, to_csv, to_latex, to_markdown


def row(**over: Any) -> dict[str, Any]:
    known = {
        "dataset": "rsna",
        "protocol": "clean",
        "encoder": "run_1",
        "task": "linear",
        "fraction": 1.0,
        "metric": "auroc",
        "label": "macro",
        "threshold_source": None,
        "value": 0.8,
        "ci_low": 0.7,
        "ci_high": 0.9,
    }
    return known | over


def document(rows: list[dict[str, Any]], **over: Any) -> dict[str, Any]:
    return {"protocol": "clean", "archive": "rsna", "phantom": False, "rows": rows} | over


ROWS = [
    *(row(fraction=0.01, draw=d, value=v) for d, v in enumerate((0.60, 0.70))),
    row(),
    row(label="Pneumonia", value=0.1),
    row(metric="f1", value=0.3),
    row(encoder="random", value=None),
    row(task="zeroshot", fraction=0.0),
]
OTHER = [
    row(dataset="covidx", protocol="paper", metric="accuracy", threshold_source="fixed", value=0.9)
]


def test_headlines_of_each_set_stand_side_by_side() -> None:
    table, columns = gather(
        [document(ROWS), document(OTHER, protocol="paper", archive="covidx")], "linear"
    )
    lines = to_markdown(table, columns).splitlines()
    assert lines == [
        "| encoder | covidx, paper 100 %, accuracy | rsna, clean 1 %, auroc | "
        "rsna, clean 100 %, auroc |",
        "| --- | ---: | ---: | ---: |",
        "| run_1 | 90.0 | 65.0 ± 7.1 | 80.0 |",
    ]


def test_latex_is_escaped() -> None:
    text = to_latex(*gather([document(ROWS)], "linear"))
    assert r"run\_1 & 65.0 $\pm$ 7.1 & 80.0 \\" in text and r"1 \%" in text
    assert text.startswith(r"\begin{tabular}{lrr}") and text.endswith("\\end{tabular}\n")


def test_csv_has_intervals_of_numbers_that_stand_alone() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(*gather([document(ROWS)], "linear")))))
    told = [
        (r["fraction"], f"{float(r['value']):.2f}", r["sd"] != "", r["count"], r["ci_low"])
        for r in rows
    ]
    assert told == [("0.01", "0.65", True, "2", ""), ("1.0", "0.80", False, "1", "0.7")]


def test_phantoms_are_called_so_and_a_missing_number_is_a_dash() -> None:
    rows = [*ROWS[:3], row(encoder="random", fraction=0.01, value=0.5)]
    text = to_markdown(*gather([document(rows, phantom=True)], "linear"))
    assert "rsna (phantom), clean" in text and "| random | 50.0 | – |" in text


def test_the_thresholds_that_the_protocol_names_first_count() -> None:
    both = [
        row(task="zeroshot", metric="f1", threshold_source=source, value=value, protocol="paper")
        for source, value in (("test", 0.6), ("validate", 0.5))
    ]
    text = to_markdown(*gather([document(both, protocol="paper")], "zeroshot"))
    assert "60.0" in text and "50.0" not in text


def test_a_task_without_rows_has_no_table() -> None:
    assert gather([document(ROWS)], "finetune") == ({}, [])


def test_of_two_headlines_a_set_has_the_first_that_there_is() -> None:
    covidx = {"protocol": "paper", "archive": "covidx"}
    both = [*OTHER, row(dataset="covidx", protocol="paper", metric="top1", value=0.8)]
    for rows, metric, value in ((OTHER, "accuracy", 90.0), (both, "top1", 80.0)):
        table, (column,) = gather([document(rows, **covidx)], "linear")
        assert column.metric == metric and f"| {value} |" in to_markdown(table, [column])
