"""A prepared set, or several joined, as the writer of shards reads it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...contract import SPLITS, Access, Folders, InputError, key_of
from ...files import blake3_file, digest_of, read_json, read_table
from ...schema import MANIFEST, SCHEMA_VERSION

BATCH = 4_096  # rows of the prepared manifest held as Python objects at a time


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A finished prepared set; `digest` changes with its manifest or its card."""

    folder: Path
    card: Mapping[str, Any]
    access: Access
    digest: str

    @property
    def names(self) -> list[str]:
        """Names of the sets that this is made of."""
        return [self.folder.name]

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Read the card and hash the manifest; InputError unless the set is finished."""
        todo = "prepare it first: imitate prep --help lists the archives"
        for name in ("card.json", "manifest.parquet"):
            if not (folder / name).is_file():
                raise InputError("not a finished prepared set", where=str(folder / name), todo=todo)
        card = read_json(folder / "card.json")
        if card.get("access") not in ("open", "credentialed"):
            raise InputError(
                "the card does not say whether access is open or credentialed",
                where=str(folder / "card.json"),
                todo=todo,
            )
        stable = {name: value for name, value in card.items() if name != "run"}
        digest = digest_of([SCHEMA_VERSION, stable, blake3_file(folder / "manifest.parquet")])
        return Prepared(
            folder=folder, card=card, access=cast(Access, card["access"]), digest=digest
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the manifest, holding a few thousand at a time.

        Raises InputError for a manifest that is damaged or whose rows cannot be trusted.
        """
        path = self.folder / "manifest.parquet"
        keys = read_table(path, MANIFEST, ["key"]).column("key")
        if len(keys.unique()) != len(keys):
            raise InputError("two samples have the same key", where=str(path))
        maps = [field.name for field in MANIFEST.fields if field.type.startswith("map<")]
        try:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(BATCH, columns=list(MANIFEST.names)):
                    for row in batch.to_pylist():
                        row.update({name: dict(row[name]) for name in maps})
                        yield _trusted(row)
        except (pa.ArrowException, OSError, KeyError):
            raise InputError("manifest table is not readable", where=str(path)) from None


@dataclass(frozen=True, kw_only=True)
class Joined(Prepared):
    """Several prepared sets as one: keys prefixed with the archive's name, splits kept.

    `folder` is the folder that holds all of them.
    """

    parts: tuple[Prepared, ...]

    @classmethod
    def of(cls, sets: Sequence[Prepared]) -> Joined:
        """Join sets that lie in one folder; access is the stricter, the order means nothing."""
        parts = tuple(sorted(sets, key=lambda part: part.folder))
        digests = {part.folder.name: part.digest for part in parts}
        norms: Counter[str] = Counter()
        for part in parts:
            norms.update(part.card.get("counts", {}).get("norm", {}))
        cards = {
            part.folder.name: {n: value for n, value in part.card.items() if n != "run"}
            for part in parts
        }
        return cls(
            folder=parts[0].folder.parent,
            card={"sets": cards, "counts": {"norm": dict(norms)}},
            access="open" if all(part.access == "open" for part in parts) else "credentialed",
            digest=digest_of([SCHEMA_VERSION, digests]),
            parts=parts,
        )

    @property
    def names(self) -> list[str]:
        """Names of the sets that are joined."""
        return [part.folder.name for part in self.parts]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of every set, keys prefixed and paths below the common folder.

        Raises InputError when a set is damaged or two samples end up with the same key.
        """
        seen: set[str] = set()
        for part in self.parts:
            for row in part.rows():
                row["key"] = f"{key_of(row['dataset'])}_{row['key']}"
                if row["key"] in seen:
                    raise InputError(
                        "two samples of the joined sets have the same key",
                        where=f"key {row['key']}, set {part.folder.name}",
                        todo="join only one of the sets that hold this archive",
                    )
                seen.add(row["key"])
                for name in ("image", "mask"):
                    row[name] = row[name] and f"{part.folder.name}/{row[name]}"
                yield _trusted(row)


def open_sets(folders: Folders, names: Sequence[str]) -> Prepared:
    """Open the prepared set of this name, or join those of these names."""
    sets = [Prepared.open(folders.prepared(name)) for name in dict.fromkeys(names)]
    return Joined.of(sets) if len(sets) > 1 else sets[0]


def _trusted(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose key, split and paths can name files and tar members."""
    paths = [PurePosixPath(row[name] or "x") for name in ("image", "mask")]
    good = (
        re.fullmatch(r"[A-Za-z0-9_-]{1,240}", row["key"])
        and row["split"] in SPLITS
        and all(re.fullmatch(r"[0-9a-f]{64}", row[n]) for n in ("png_blake3", "pixel_blake3"))
        and not any(path.is_absolute() or ".." in path.parts for path in paths)
    )
    if not good:
        raise InputError(
            "the key, split, path or hash of a sample is not one that prep writes",
            where=f"manifest.parquet, image {row['image']!r}",
        )
    return row
