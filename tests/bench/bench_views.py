"""The CPU time of a training sample, from its store to two views, against the published path.

Published (method.md A.9): a memory map of decoded pixels, PIL in RGB, one transform after another,
float32 and normalised. Ours: from compressed shards, and from the same kind of memory map; two
grey views of 8 bits, which the model normalises where it is. The published transforms are
re-stated with PIL, as their library computes them. CPU time of the whole process, medians over
interleaved rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_train import GPU, write_films
from PIL import Image, ImageOps

from imitate.contract import Folders
from imitate.shards.manifest import ShardSet
from imitate.shards.reader import ShardReader, iterate
from imitate.shards.reading.pixels import HostPixels, PixelFile
from imitate.shards.reading.source import PictureSource
from imitate.train.augmentation.draw import ViewDraw, tilt
from imitate.train.network.model import IMAGENET_MEAN, IMAGENET_STD, ImageConfig
from imitate.train.objective.films import sample_views
from imitate.train.objective.views import ViewsConfig, draw_views

Row = dict[str, Any]
ROUNDS, BATCH, SAMPLES = 5, 32, 256
CUDA = torch.cuda.is_available()
IMAGE = ImageConfig()
PAPER = ViewsConfig(mode="paper", rotation=30, flip_p=0.5)
ON_CPU, ON_DEVICE = (
    ViewsConfig(rotation=30, flip_p=0.5, device=device) for device in ("cpu", "device")
)
MEAN, STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def published_view(stored: np.ndarray, draw: ViewDraw) -> torch.Tensor:
    """One view in RGB, normalised [3, S, S]."""
    size = IMAGE.size
    top, left = draw.place(stored.shape, size)
    view = Image.fromarray(stored).convert("RGB").crop((left, top, left + size, top + size))
    if draw.top < 0.5:  # RandomGrayscale, half of the time
        view = view.convert("L").convert("RGB")
    if draw.flip_x:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.flip_y:
        view = view.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    view = view.rotate(draw.angle, resample=Image.Resampling.NEAREST)
    if draw.corners is not None:
        inwards = np.floor(draw.corners * (size // 4 + 1))
        back = np.linalg.inv(tilt(inwards, size=size))
        numbers = (back / back[2, 2]).ravel()[:8].tolist()
        view = view.transform(
            (size, size), Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC
        )
    if draw.autocontrast:
        view = ImageOps.autocontrast(view)
    pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1).contiguous()
    return (pixels.float().div(255) - MEAN) / STD


def published(pixels: np.ndarray, keys: list[str]) -> None:
    for first in range(0, len(keys), BATCH):
        made = [
            published_view(np.array(pixels[i]), draw)
            for i in range(first, min(first + BATCH, len(keys)))
            for draw in draw_views(PAPER, seed=0, epoch=0, key=keys[i])
        ]
        torch.stack(made)


def ours(source: PictureSource, rows: np.ndarray, keys: list[str], config: ViewsConfig) -> None:
    parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    for number, batch in enumerate(iterate(source, iter(parts), workers=1)):
        names = [[key] for key in keys[number * BATCH : (number + 1) * BATCH]]
        views = sample_views(batch.images[:, None], names, config, image=IMAGE, seed=0, epoch=0)
        if CUDA and config.device == "device":
            views.to(torch.device("cuda"))
            torch.cuda.synchronize()


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def medians(*works: Callable[[], object]) -> list[float]:
    for work in works:
        work()
    rounds = [[cpu_seconds(work) for work in works] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def bench() -> list[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_films(root, GPU)
        shards = ShardSet.open(Folders(root).shards("films"))
        reader, rows = ShardReader(shards), shards.rows("train")[:SAMPLES]
        column = shards.column("key")
        keys = [column[row] for row in rows.tolist()]
        file = PixelFile(reader, rows)
        file.build(workers=1, progress="none", tell=lambda line: None)
        cached = HostPixels(file)
        pixels = np.load(file.path, mmap_mode="r")
        slow, *fast = medians(
            lambda: published(pixels, keys),
            lambda: ours(reader, rows, keys, ON_CPU),
            lambda: ours(cached, rows, keys, ON_CPU),
            lambda: ours(reader, rows, keys, ON_DEVICE),
            lambda: ours(cached, rows, keys, ON_DEVICE),
        )
        cached.close()
    stores = ("shards", "the pixel cache")
    left_out = "" if CUDA else ", their drawing left out"
    return [
        row(f"{what}, from {store}", target, slow / time, judged=judged)
        for (what, target, judged, store), time in zip(
            [
                (what, target, judged, store)
                for what, target, judged in (
                    ("sample with two views, CPU time of the published path / ours", 5, True),
                    (f"the same with views drawn on the device{left_out}", 9, CUDA),
                )
                for store in stores
            ],
            fast,
            strict=True,
        )
    ]


def row(goal: str, target: int, measured: float, *, judged: bool) -> Row:
    verdict = measured >= target if judged else None
    return {"goal": goal, "target": f">= {target}", "measured": measured, "ok": verdict}
