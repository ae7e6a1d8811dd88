"""Names that tell nothing: keyed hashes in place of the ids and paths of an unknown archive.

Nobody has said that such ids are free of patient data, and ids travel: into file names, shards,
predictions and pages. The key never leaves the user's disk, so a name cannot be guessed back.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blake3

from ..contract import InputError
from ..files import write_text
from .download.tree import readable
from .record import Listing, Record

KEY_FILE = "names.key"  # below the folder of all data, one for all sets
MAP_FILE = "names.csv"
COLUMNS = ("image_id", "image_id_there", "source", "study_id_there", "subject_id_there")


def name_key(data: Path) -> bytes:
    """Return the key of all hashed names below a folder, drawn once and kept in a 0600 file.

    Raises InputError when the file holds no key.
    """
    path = data / KEY_FILE
    data.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # exclusive: two commands never have two keys
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as new:
            new.write(f"{secrets.token_hex(32)}\n")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise InputError(
            "this is not a key of names",
            where=str(path),
            todo="put it back; with another key, or without the file, all names are new",
        )
    return key


def hide(listing: Listing, key: bytes) -> Listing:
    """Return the listing with hashes in place of ids and paths; splits stay as they are."""

    def hashed(kind: str, value: str | None) -> str | None:
        data = f"{kind}:{value}".encode("utf-8", "surrogateescape")
        return None if value is None else blake3.blake3(data, key=key).hexdigest()[:16]

    return replace(listing, records=[_hidden(record, hashed) for record in listing.records])


def _hidden(record: Record, hashed: Callable[[str, str | None], str | None]) -> Record:
    image_id = hashed("image", record.image_id)
    return replace(
        record,
        image_id=image_id,
        alias=image_id,
        study_id=hashed("study", record.study_id),
        subject_id=hashed("subject", record.subject_id),
    )


def write_map(folder: Path, before: Listing, after: Listing) -> None:
    """Write who is who, readable by the user alone: `names.csv` of a prepared set."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    pairs = zip(before.records, after.records, strict=True)
    rows = [
        (new.image_id, *map(_shown, (old.image_id, old.source, old.study_id, old.subject_id)))
        for old, new in pairs
    ]
    lines.writerows(sorted(rows))
    umask = os.umask(0o077)
    try:
        write_text(folder / MAP_FILE, text.getvalue())
    finally:
        os.umask(umask)


def _shown(value: str | None) -> str:
    return "" if value is None else readable(value)
