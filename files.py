"""Files on disk: atomic writes, hashes, canonical JSON, and the one Parquet writer and reader."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contract import Access, InputError, UsageError
from .schema import ROW_GROUP, Table

if TYPE_CHECKING:
    import pyarrow as pa

PARTIAL = ".partial-"  # prefix of a file being written; such files are never read


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    A process killed in between leaves only a `.partial-` file, which the next write replaces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_partials(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder` and below."""
    for partial in folder.rglob(f"{PARTIAL}*"):
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def canonical_json(value: object) -> bytes:
    """Return the one JSON form of `value`: UTF-8, sorted keys, no spaces, a newline at the end."""
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return text.encode() + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write `value` as readable JSON with sorted keys, atomically."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; InputError when it is missing or is not one."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError("file not found", where=str(path)) from None
    except (ValueError, OSError):
        raise InputError("not readable as JSON", where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=str(path))
    return value


def blake3_hex(data: bytes | memoryview) -> str:
    """Return the BLAKE3 of `data` in hex."""
    import blake3

    return str(blake3.blake3(data).hexdigest())


def blake3_file(path: Path) -> str:
    """Return the BLAKE3 of a file in hex, read in blocks."""
    import blake3

    hasher = blake3.blake3()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            hasher.update(block)
    return str(hasher.hexdigest())


def digest_of(value: object) -> str:
    """Return the BLAKE3 of a value's canonical JSON, hex."""
    return blake3_hex(canonical_json(value))


def set_private(access: Access) -> None:
    """For a credentialed archive, let this process create files 0600 and folders 0700."""
    if access == "credentialed":
        os.umask(0o077)


def safe_name(name: str) -> str:
    """Return `name` if it can name a set or run below the root; UsageError otherwise."""
    bad = not name or name.startswith(".") or any(c in name for c in "/\\\0") or len(name) > 200
    if bad:
        raise UsageError(
            "a name is letters, digits, '-', '_' and '.', not a path", where=f"name={name!r}"
        )
    return name


def _types() -> dict[str, pa.DataType]:
    import pyarrow as pa

    box = pa.struct(
        [
            pa.field("x", pa.float64(), nullable=False),
            pa.field("y", pa.float64(), nullable=False),
            pa.field("w", pa.float64(), nullable=False),
            pa.field("h", pa.float64(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
        ]
    )
    return {
        "string": pa.string(),
        "int32": pa.int32(),
        "uint8": pa.uint8(),
        "uint16": pa.uint16(),
        "uint32": pa.uint32(),
        "uint64": pa.uint64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "binary16": pa.binary(16),
        "map<string,string>": pa.map_(pa.string(), pa.string()),
        "map<string,float64>": pa.map_(pa.string(), pa.float64()),
        "map<string,list<string>>": pa.map_(pa.string(), pa.list_(pa.string())),
        "map<string,list<int32>>": pa.map_(pa.string(), pa.list_(pa.int32())),
        "list<box>": pa.list_(box),
        "list<float64>": pa.list_(pa.float64()),
        "list<string>": pa.list_(pa.string()),
    }


def arrow_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a table of the contract."""
    import pyarrow as pa

    types = _types()
    return pa.schema(
        [
            pa.field(f.name, types[f.type.rstrip("?")], nullable=f.type.endswith("?"))
            for f in table.fields
        ]
    )


def to_arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as an Arrow table of the fixed schema, the keys of its maps sorted."""
    import pyarrow as pa

    maps = {f.name for f in table.fields if f.type.startswith("map<")}
    columns: dict[str, list[Any]] = {name: [] for name in table.names}
    for row in rows:
        for name in table.names:
            value = row[name]
            columns[name].append(sorted(value.items()) if name in maps else value)
    schema = arrow_schema(table)
    return pa.table(
        [pa.array(columns[field.name], type=field.type) for field in schema], schema=schema
    )


def write_table(path: Path, table: Table, rows: Iterable[Mapping[str, Any]] | pa.Table) -> None:
    """Write a table of the contract: the only place where Parquet is written.

    Fixed schema, zstd, exactly 65,536 rows a row group, one chunk, so that equal rows are equal
    bytes however they were gathered.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = rows if isinstance(rows, pa.Table) else to_arrow(table, rows)
    data = data.select(list(table.names)).cast(arrow_schema(table)).combine_chunks()
    with atomic(path) as partial:
        pq.write_table(
            data.replace_schema_metadata(None),
            partial,
            compression="zstd",
            row_group_size=ROW_GROUP,
            version="2.6",
            write_statistics=False,
        )


def read_table(
    path: Path,
    table: Table,
    columns: Sequence[str] | None = None,
    *,
    repetitive: Sequence[str] = (),
) -> pa.Table:
    """Read a table of the contract; InputError when missing, damaged or of other columns.

    Text columns that are `repetitive` come as Arrow dictionaries, which take far less memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{table.name} table not found", where=str(path))
    wanted = list(columns or table.names)
    try:
        with pq.ParquetFile(path, memory_map=True, read_dictionary=list(repetitive)) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            data = None if missing else file.read(columns=wanted, use_threads=len(wanted) > 1)
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(
            f"{table.name} table is not readable as Parquet", where=str(path)
        ) from None
    if data is None:
        raise InputError(
            f"{table.name} table lacks columns {', '.join(missing)}",
            where=str(path),
            todo="it is of another version, or no table of ours: make it again with this version",
        )
    return data.select(wanted)


def read_rows(
    path: Path, table: Table, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Read a table of the contract as rows, its maps as dictionaries."""
    data = read_table(path, table, columns)
    types = {field.name: field.type for field in table.fields}
    maps = [name for name in data.column_names if types[name].startswith("map<")]
    rows: list[dict[str, Any]] = data.to_pylist()
    for row in rows:
        for name in maps:
            row[name] = dict(row[name])
    return rows
