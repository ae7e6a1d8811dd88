"""The cache of embeddings: each distinct text is read by the frozen encoder once.

Axes: N texts, E width of the embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ....contract import InputError
from ....files import atomic, blake3_file, digest_of, read_json, write_json
from ..text import Floats, TextEncoder


def embed_cached(encoder: TextEncoder, texts: list[str], path: Path) -> Floats:
    """Return the embeddings [N, E] of distinct `texts`, memory-mapped from `path` (.npy).

    They are made when the file is missing, damaged, or made from other texts or by another
    encoder, which the JSON beside it tells. Bytes depend on the encoder and the texts alone.
    """
    mark = path.with_suffix(".json")
    wanted = {"encoder": encoder.digest, "texts": digest_of(texts), "count": len(texts)}
    if not _intact(path, mark, wanted):
        mark.unlink(missing_ok=True)
        with atomic(path) as partial:
            _write(encoder, texts, partial)
        write_json(mark, wanted | {"blake3": blake3_file(path)})
    cached: Floats = np.load(path, mmap_mode="r")
    return cached


def _intact(path: Path, mark: Path, wanted: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    try:
        told = read_json(mark)
    except InputError:
        return False
    return told == wanted | {"blake3": blake3_file(path)}


def _write(encoder: TextEncoder, texts: list[str], path: Path) -> None:
    shape = (len(texts), encoder.width)
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for rows, vectors in encoder.batches(texts):
        mapped[rows] = vectors
    mapped.flush()
