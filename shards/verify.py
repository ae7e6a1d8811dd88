"""What is wrong with a prepared set, a shard set or a run: each damaged sample by its key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..contract import InputError, UsageError
from ..files import PARTIAL, blake3_file, blake3_hex, read_json, read_rows, read_table
from ..schema import REJECTS, SHARD_MANIFEST, SHARDS
from ..work import Interrupts, Progress
from .audit.run import inspect_run
from .manifest import HASHED, dataset_digest, sha256sums
from .source.prepared import Prepared
from .walk import Problem, hash12, inspect_shard, pixel_hash

CARD = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was looked at and everything that is wrong with it."""

    path: Path
    kind: str
    samples: int
    problems: list[Problem] = field(default_factory=list)


def verify_path(
    path: Path,
    *,
    deep: bool = False,
    interrupts: Interrupts | None = None,
    progress: str = "none",
) -> Verdict:
    """Look at every byte of a prepared set or a shard set, or at the chain of cards of a run.

    `deep` also decodes every picture and compares its pixels with their hash. Raises InputError
    when the folder does not exist and UsageError when it is neither a set nor a run.
    """
    if not path.is_dir():
        raise InputError("no such folder", where=str(path))
    work = _Work(deep=deep, interrupts=interrupts or Interrupts(), progress=progress)
    if (path / CARD).is_file() or (path / "shards").is_dir():
        return _verify_shards(path, work)
    if (path / "card.json").is_file() and (path / "images").is_dir():
        return _verify_prepared(path, work)
    if path.resolve().parent.name == "runs" and (path / "recipe.yaml").is_file():
        samples, problems = inspect_run(path)
        return Verdict(path=path, kind="run", samples=samples, problems=problems)
    raise UsageError(
        "neither a finished prepared set nor a shard set nor a run",
        where=str(path),
        todo="give a folder below data/prepared, data/shards or runs",
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    deep: bool
    interrupts: Interrupts
    progress: str


def _table(file: str, detail: str, key: str | None = None) -> Problem:
    return Problem(problem="table", file=file, key=key, detail=detail)


def _check_rejects(path: Path, card: Mapping[str, Any]) -> list[Problem]:
    """Compare the rejects table with the numbers of the card."""
    try:
        found = Counter(read_table(path / "rejects.parquet", REJECTS)["reason"].to_pylist())
    except InputError as error:
        return [_table("rejects.parquet", error.what)]
    same = dict(found) == card.get("rejected")
    return [] if same else [_table("rejects.parquet", "not the rejects that the card counts")]


# ---- a prepared set


def _verify_prepared(path: Path, work: _Work) -> Verdict:
    try:
        prepared = Prepared.open(path)
        rows = list(prepared.rows())
    except InputError as error:
        broken = [_table("manifest.parquet", error.what)]
        return Verdict(path=path, kind="prepared", samples=0, problems=broken)
    problems = _check_rejects(path, prepared.card)
    for name, expected in prepared.card["files"].items():
        if (path / name).is_file() and blake3_file(path / name) != expected:
            problems.append(_table(name, "no longer has the hash that the card tells"))
    with Progress("verify", len(rows), work.progress) as bar:
        for row in rows:
            work.interrupts.check()
            problems += _prepared_sample(path, row, deep=work.deep)
            bar.advance()
    named = {row[name] for row in rows for name in ("image", "mask") if row[name]}
    files = (file for folder in ("images", "masks") for file in (path / folder).rglob("*"))
    for file in sorted(files):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name not in named and not file.name.startswith(PARTIAL):
            detail = "no row of the manifest names it"
            problems.append(Problem(problem="surplus", file=name, key=file.stem, detail=detail))
    return Verdict(path=path, kind="prepared", samples=len(rows), problems=problems)


def _prepared_sample(path: Path, row: Mapping[str, Any], *, deep: bool) -> Iterator[Problem]:
    files = [(row["image"], row["png_blake3"], "picture")]
    if row["mask"] is not None:
        files.append((row["mask"], row["mask_blake3"], "mask"))
    for file, expected, what in files:
        problem = partial(Problem, file=file, key=row["key"])
        try:
            png = (path / file).read_bytes()
        except OSError:
            yield problem(problem="missing", detail=f"no such {what}")
            continue
        if blake3_hex(png) != expected:
            yield problem(problem="damaged", detail=f"the {what} no longer has its hash")
        elif deep and what == "picture" and pixel_hash(png).hex() != row["pixel_blake3"]:
            yield problem(problem="damaged", detail="the picture decodes to other pixels")


# ---- a shard set


def _verify_shards(path: Path, work: _Work) -> Verdict:
    problems = _check_card(path)
    trusted = not any(p.file in ("manifest.parquet", CARD) for p in problems)
    manifest, index = _manifest(path), _index(path)
    if manifest is None or index is None:
        problems.append(_table("manifest.parquet" if manifest is None else "index", "unreadable"))
    if manifest is not None and index is not None:
        problems += _differences(manifest, index, trusted=trusted)
    rows = manifest if manifest is not None and (trusted or index is None) else index
    if rows is None:
        return Verdict(path=path, kind="shards", samples=0, problems=problems)
    problems += _repeated(rows)
    names = rows.column("shard").unique().to_pylist()
    known = {hash12(name): name for name in names}
    with Progress("verify", len(rows), work.progress) as bar:
        for name in names:
            work.interrupts.check()
            part = _as_rows(rows.filter(pc.equal(rows.column("shard"), name)))
            problems += inspect_shard(path / "shards" / name, part, known, deep=work.deep)
            bar.advance(len(part))
    problems += _surplus_files(path, set(names))
    return Verdict(path=path, kind="shards", samples=len(rows), problems=problems)


def _check_card(path: Path) -> list[Problem]:
    """Compare the card with the tables, and the tables with each other."""
    try:
        card = read_json(path / CARD)
        digest, hashes, count = card["digest"], card["files"], card["samples"]
        expected = {name: hashes[name] for name in HASHED}
    except (InputError, KeyError, TypeError):
        return [_table(CARD, "missing, unreadable or without a field it should have")]
    problems = [
        _table(name, "missing or not the table that the card names")
        for name in HASHED
        if not (path / name).is_file() or blake3_file(path / name) != expected[name]
    ]
    try:
        shards = read_rows(path / "shards.parquet", SHARDS)
    except InputError as error:
        return [*problems, _table("shards.parquet", error.what)]
    if dataset_digest(shards) != digest:
        problems.append(_table(CARD, "the digest is not that of the shards in shards.parquet"))
    if sum(shard["n_samples"] for shard in shards) != count:
        problems.append(_table(CARD, "the number of samples is not that of shards.parquet"))
    problems += _check_rejects(path, card)
    sums = path / "SHA256SUMS"
    if not sums.is_file() or sums.read_bytes() != sha256sums(shards).encode():
        problems.append(_table("SHA256SUMS", "missing or not the sums of shards.parquet"))
    return problems


def _manifest(path: Path) -> pa.Table | None:
    try:
        return read_table(path / "manifest.parquet", SHARD_MANIFEST)
    except InputError:
        return None


def _index(path: Path) -> pa.Table | None:
    """Return the index files together in order of ordinals; None if one is unreadable."""
    try:
        tables = [
            read_table(file, SHARD_MANIFEST)
            for file in sorted((path / "index").glob("*.parquet"))
            if not file.name.startswith(PARTIAL)
        ]
    except InputError:
        return None
    return pa.concat_tables(tables).sort_by("ordinal") if tables else None


def _differences(manifest: pa.Table, index: pa.Table, *, trusted: bool) -> list[Problem]:
    """Name every sample whose manifest row is not its index row; blame the one not trusted."""
    if manifest.equals(index):
        return []
    ours, theirs = ({row["key"]: row for row in _as_rows(table)} for table in (manifest, index))
    problems = []
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        shard = (one or other or {})["shard"]
        stem = shard.removesuffix(f"-{hash12(shard)}.tar")
        file = f"index/{stem}.parquet" if trusted else "manifest.parquet"
        fields = sorted(n for n in SHARD_MANIFEST.names if one and other and one[n] != other[n])
        detail = f"index and manifest differ in {', '.join(fields) or 'having this sample'}"
        problems.append(_table(file, detail, key))
    return problems or [_table("manifest.parquet", "index and manifest differ in their order")]


def _repeated(rows: pa.Table) -> list[Problem]:
    counts = Counter(rows.column("key").to_pylist())
    return [
        Problem(problem="surplus", file="manifest.parquet", key=key, detail=f"{n} rows")
        for key, n in sorted(counts.items())
        if n > 1
    ]


def _surplus_files(path: Path, names: set[str]) -> list[Problem]:
    found = sorted(file.name for file in (path / "shards").glob("[!.]*"))
    detail = "no row of the manifest names this shard"
    return [
        Problem(problem="surplus", file=f"shards/{name}", key=None, detail=detail)
        for name in found
        if name not in names
    ]


def _as_rows(table: pa.Table) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row["labels"] = dict(row["labels"])
    return rows
