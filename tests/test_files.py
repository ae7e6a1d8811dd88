"""Atomic writes, canonical JSON, hashes, and the one Parquet writer."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imitate.contract import InputError, UsageError
from imitate.files import (
    PARTIAL,
    atomic,
    blake3_file,
    blake3_hex,
    canonical_json,
    digest_of,
    read_json,
    read_rows,
    read_table,
    safe_name,
    sweep_partials,
    write_json,
    write_table,
)
from imitate.schema import ROW_GROUP, SECTIONS, SHARDS, Table


def section_row(number: int) -> dict[str, Any]:
    return {
        "report_id": f"r{number:06d}",
        "findings": "Clear.",
        "impression": "",
        "sections": {"findings": "Clear.", "comparison": "None."},
        "spans": {"findings": [10, 16]},
        "section_source": "header",
        "report_labels": {"Edema": 1.0},
    }


def test_a_failed_write_leaves_the_old_file_and_no_partial(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_partials_of_killed_processes_are_swept(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"{PARTIAL}1-a").touch()
    (tmp_path / "kept").touch()
    sweep_partials(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["kept"]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    shuffled = list(value.items())
    random.Random(0).shuffle(shuffled)
    assert canonical_json(value) == canonical_json(dict(shuffled))
    assert digest_of(value) == digest_of(dict(shuffled))


def test_canonical_json_is_compact_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}\n'.encode()
    with pytest.raises(ValueError):
        canonical_json({"a": float("nan")})


def test_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert blake3_file(tmp_path / "a") == blake3_hex(data)


def test_table_goes_round(tmp_path: Path) -> None:
    rows = [section_row(0), section_row(1)]
    write_table(tmp_path / "s.parquet", SECTIONS, rows)
    assert read_rows(tmp_path / "s.parquet", SECTIONS) == rows


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.randoms())
def test_table_bytes_depend_on_rows_alone(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rng: random.Random
) -> None:
    import pyarrow as pa

    from imitate.files import to_arrow

    folder = tmp_path_factory.mktemp("bytes")
    rows = [section_row(n) for n in range(sum(sizes))]
    for row in rows:  # the order in which a map was filled must not matter
        items = list(row["sections"].items())
        rng.shuffle(items)
        row["sections"] = dict(items)
    write_table(folder / "whole", SECTIONS, rows)
    chunks, start = [], 0
    for size in sizes:
        chunks.append(to_arrow(SECTIONS, rows[start : start + size]))
        start += size
    write_table(folder / "chunked", SECTIONS, pa.concat_tables(chunks))
    assert (folder / "whole").read_bytes() == (folder / "chunked").read_bytes()


def test_row_groups_have_their_fixed_size(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [
        {"name": f"{n}", "split": "train", "bytes": 1, "n_samples": 1, "blake3": "", "sha256": ""}
        for n in range(ROW_GROUP + 5)
    ]
    write_table(tmp_path / "s", SHARDS, rows)
    meta = pq.ParquetFile(tmp_path / "s").metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [ROW_GROUP, 5]


@pytest.mark.parametrize(
    ("content", "what"), [(None, "not found"), (b"PAR1 not really", "not readable")]
)
def test_a_table_that_cannot_be_read_is_an_input_error(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_table(path, SHARDS)
    assert caught.value.where == str(path)


def test_a_table_of_other_columns_is_an_input_error(tmp_path: Path) -> None:
    write_table(tmp_path / "t", SECTIONS, [section_row(0)])
    other = Table(name="other", fields=SHARDS.fields)
    with pytest.raises(InputError, match="lacks columns"):
        read_table(tmp_path / "t", other)


def test_json_object_goes_round_and_others_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "b.json").write_text("[1]")
    for name, what in (("b.json", "not a JSON object"), ("c.json", "not found")):
        with pytest.raises(InputError, match=what):
            read_json(tmp_path / name)


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "x" * 201])
def test_names_cannot_leave_the_root(name: str) -> None:
    with pytest.raises(UsageError):
        safe_name(name)


def test_private_files_for_credentialed_data(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "from pathlib import Path; from imitate.files import set_private, write_text;"
        f"set_private('credentialed'); write_text(Path({str(tmp_path)!r}) / 'd' / 'f', 'x')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / "f").stat().st_mode & 0o777 == 0o600
