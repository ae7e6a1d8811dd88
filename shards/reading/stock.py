"""The stock reader: batches as webdataset itself makes them of our shards.

It shows that the shards are plain tars, and is what our own reader is measured against. Nothing is
verified, and the order is webdataset's: shards shuffled, then a buffer of samples.

Legend: B batch, H rows, W columns.
"""

from __future__ import annotations

import os
import tarfile
import warnings
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import cv2
import numpy as np

from ...contract import InputError
from ..manifest import TODO, ShardSet
from ..order import Plan
from ..reader import Batch

BUFFER = 5_000  # samples that are shuffled at a time, as others set it


def stock_batches(shards: ShardSet, plan: Plan, steps: range) -> Iterator[Batch]:
    """Yield the batches of some steps, as many an epoch as the plan has, of the plan's rows.

    To begin within an epoch, the samples before are read and dropped, which is as exact as this
    version of webdataset repeats its own shuffle. Raises InputError when an epoch ends too early:
    a damaged member header ends a shard without any other sign.
    """
    keys = shards.column("key")
    ordinals = {keys[row]: row for row in plan.rows.tolist()}
    step = steps.start
    while step < steps.stop:
        done = step % plan.steps_per_epoch
        stream = _stream(shards, seed=1_000_003 * plan.seed + plan.epoch_of(step))
        ours = (sample for sample in stream if sample["__key__"] in ordinals)
        rest = islice(ours, done * plan.global_batch, None)
        left = min(plan.steps_per_epoch - done, steps.stop - step)
        step += left
        for _ in range(left):
            samples = list(islice(rest, plan.global_batch))
            if len(samples) < plan.global_batch:
                raise InputError(
                    "webdataset found fewer samples than the manifest holds",
                    where=str(shards.folder),
                    todo=TODO,
                )
            images = np.stack([_decoded(sample) for sample in samples])
            found = [ordinals[sample["__key__"]] for sample in samples]
            yield Batch(ordinals=np.array(found, dtype=np.int64), images=images)


def _stream(shards: ShardSet, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield an epoch of the training split: raw bytes of members by their ending.

    These are the stages of webdataset.WebDataset, but for one: that never closes a shard.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset itself, while it is imported
        from webdataset.filters import shuffle
        from webdataset.tariterators import group_by_keys, tar_file_expander
    codes, names = shards.codes("shard")
    shuffled = [names[code] for code in np.unique(codes[shards.rows("train")])]
    Random(seed).shuffle(shuffled)
    samples = group_by_keys(tar_file_expander(_opened(shards, shuffled)))
    try:
        yield from shuffle(BUFFER, seed=seed)(samples)
    except (tarfile.TarError, ValueError, OSError):
        raise InputError(
            "webdataset cannot read a shard", where=str(shards.folder), todo=TODO
        ) from None


def _opened(shards: ShardSet, names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        with os.fdopen(shards.open_shard(name), "rb") as stream:
            yield {"url": name, "stream": stream}


def _decoded(sample: dict[str, Any]) -> Any:
    """Return the picture; explicitly, as webdataset's own decoding unpickles what asks for it."""
    data = sample.get("png") or sample["jpg"]
    data = sample.get("png") or sample["jpg"]
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise InputError(
            "a picture that webdataset read does not decode",
            where=f"key {sample['__key__']}",
            todo=TODO,
        )
    return picture
