"""What evaluations keep: cells committed by their marks, tables joined, files of tasks."""

from pathlib import Path
from typing import Any

import pytest

from imitate.eval.results.record import Record
from imitate.eval.table import Cell
from imitate.eval.tasks.task import Found
from imitate.files import read_json, read_rows, to_arrow
from imitate.schema import PREDICTIONS, RESULTS

TASKS = {"zeroshot": "a", "linear": "b"}


def cell(task: str = "linear", **over: Any) -> Cell:
    known: dict[str, Any] = {
        "encoder": "run",
        "run_digest": "d",
        "pretrain_seed": 1,
        "task": task,
        "fraction": 0.1,
        "draw": 0,
        "head_seed": 0,
    }
    return Cell(**(known | over))


def found(of: Cell, score: float, **over: Any) -> Found:
    told = {name: getattr(of, name) for name in ("encoder", "task", "fraction", "draw")}
    said = {"key": "k", "subject_id": None, "label": "Edema", "target": 1.0, "score": score}
    row = told | said | {"protocol": "clean", "head_seed": of.head_seed}
    known: dict[str, Any] = {
        "rows": [dict.fromkeys(RESULTS.names) | {"value": score}],
        "tables": [(PREDICTIONS, to_arrow(PREDICTIONS, [row]))],
        "facts": {"strength": score},
    }
    return Found(**(known | over))


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path, state="s", tasks=TASKS)


def test_a_committed_cell_is_there_and_its_unfinished_state_gone(record: Record) -> None:
    one = cell()
    folder = record.unfinished(one)
    folder.mkdir(parents=True)
    (folder / "epoch").write_text("")
    assert not record.has(one)
    record.commit(one, found(one, 0.5), damaged=[])
    assert record.has(one) and not folder.exists()
    record.commit(one, found(one, 0.5), damaged=["k"])
    assert not record.has(one)  # the sample may be whole again


@pytest.mark.parametrize("name", ["own-linear-0.1-0-0.predictions.parquet", "own-linear-0.1-0-0/a"])
def test_a_torn_file_makes_a_cell_unfinished(record: Record, name: str) -> None:
    one = cell()
    record.commit(one, found(one, 0.5, files={"a": b"x"}), damaged=[])
    (record.mark(one).parent / name).write_bytes(b"torn")
    assert not record.has(one)


def test_cells_are_joined_in_the_order_of_the_table(record: Record, tmp_path: Path) -> None:
    cells = [
        cell(encoder="random", head_seed=0),
        cell(fraction=1.0),
        cell(),
        cell("zeroshot", fraction=0.0),
        cell(encoder="no-pixels", run_digest="n"),
    ]
    for score, one in enumerate(cells):
        record.commit(one, found(one, float(score)), damaged=[])
    document = record.assemble({"known": 1}, write=True)
    order = [3.0, 2.0, 1.0, 0.0, 4.0]
    assert [row["value"] for row in document["rows"]] == order
    assert [each["strength"] for each in document["cells"]] == order and document["known"] == 1
    rows = read_rows(tmp_path / "predictions.parquet", PREDICTIONS)
    assert [row["score"] for row in rows] == order
    assert read_json(tmp_path / "results.json") == document


def test_files_of_tasks_lie_by_cell_and_go_with_it(record: Record, tmp_path: Path) -> None:
    one, other = cell(), cell(fraction=1.0)
    record.commit(one, found(one, 0.5, files={"a.png": b"1", "deep/b.png": b"2"}), damaged=[])
    record.commit(other, found(other, 0.5, files={"a.png": b"3"}), damaged=[])
    record.assemble({}, write=True)
    folder = tmp_path / "linear"
    held = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert held == {
        "own-linear-0.1-0-0/a.png": b"1",
        "own-linear-0.1-0-0/deep/b.png": b"2",
        "own-linear-1.0-0-0/a.png": b"3",
    }
    record.commit(one, found(one, 0.5, files={"c.png": b"4"}), damaged=[])
    record.assemble({}, write=True)
    assert sorted(p.name for p in (folder / "own-linear-0.1-0-0").rglob("*.png")) == ["c.png"]


def test_another_state_forgets_what_depends_on_it_alone(record: Record, tmp_path: Path) -> None:
    one, other = cell(), cell("zeroshot", fraction=0.0)
    for each in (one, other):
        record.commit(each, found(each, 0.5), damaged=[])
    changed = Record(tmp_path, state="s", tasks={**TASKS, "linear": "changed"})
    changed.forget_others()
    assert changed.has(other) and not changed.has(one)
    anew = Record(tmp_path, state="t", tasks=TASKS)
    anew.forget_others()
    assert not anew.has(other) and [row for row in anew.assemble({}, write=False)["rows"]] == []


def test_nothing_is_written_unless_asked(record: Record, tmp_path: Path) -> None:
    one = cell()
    record.commit(one, found(one, 0.5), damaged=[])
    record.assemble({}, write=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
