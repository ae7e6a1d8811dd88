"""A small labelled set, prepared and sharded, and a tiny run whose features tell its labels."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imitate.contract import Folders
from imitate.eval.encoders.crew import Crew
from imitate.eval.encoders.encoder import OurModel
from imitate.eval.encoders.features import Pictures
from imitate.eval.table import Cell
from imitate.eval.tasks.task import EvalOptions, Work
from imitate.eval.testset import TestSet
from imitate.files import blake3_hex, write_json, write_table, write_text
from imitate.schema import MANIFEST, SCHEMA_VERSION
from imitate.work import Interrupts

SIZE = 16
WORDS = ("Bright film.", "Dark film.", "No acute cardiopulmonary process.", "Pneumonia.")

MakeSet = Callable[..., Path]


def film(number: int, *, bright: bool) -> np.ndarray:
    """Noise whose level tells the label, not without error."""
    rng = np.random.default_rng(number)
    return (rng.integers(0, 120, (SIZE, SIZE)) + 60 * bright).astype(np.uint8)


def row(folder: Path, number: int, *, dataset: str, subjects: bool) -> dict[str, Any]:
    bright = np.random.default_rng(1000 + number).random() < 0.4
    pixels = film(number, bright=bright)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    key = f"film-{number:03d}"
    (folder / "images" / f"{key}.png").write_bytes(png)
    other = float(number % 3 == 0)
    values = {
        "key": key,
        "dataset": dataset,
        "subject_id": f"s{number // 2}" if subjects else None,
        "study_id": f"t{number}",
        "image_id": key,
        "view": "LATERAL" if number % 17 == 16 else "PA",
        "view_source": "metadata",
        "split": ("train", "train", "validate", "test", "test")[number // 2 % 5],
        "image": f"images/{key}.png",
        "source": f"{key}.dcm",
        "norm": "none",
        "png_blake3": blake3_hex(png),
        "pixel_blake3": blake3_hex(pixels.tobytes()),
        "findings": WORDS[not bright],
        "impression": WORDS[3 if bright else 2],
        "section_source": "header",
        "labels": {
            "Pneumonia": float(bright),
            "Edema": other if number % 5 else -1.0,
            "Hernia": 0.0,
        },
        "label_source": "drawn",
        "mask": None,
        "mask_blake3": None,
        "report_labels": {},
        "metadata": {},
    }
    sides = dict.fromkeys(("height", "width", "source_height", "source_width"), SIZE)
    geometry = {"scale_x": 1.0, "scale_y": 1.0, "offset_x": 0.0, "offset_y": 0.0}
    return (
        values
        | sides
        | geometry
        | {"sections": {}, "sentences": {}, "boxes": [], "bits": 8, "orientation": 1}
    )


@pytest.fixture(scope="session")
def make_set() -> MakeSet:
    """Write a prepared set below a root and return the root."""

    def make(
        root: Path,
        name: str = "phantom-rsna",
        *,
        n: int = 160,
        first: int = 0,
        dataset: str = "rsna",
        subjects: bool = True,
        access: str = "open",
        **over: object,
    ) -> Path:
        folder = Folders(root).prepared(name)
        (folder / "images").mkdir(parents=True)
        numbers = range(first, first + n)
        rows = [row(folder, i, dataset=dataset, subjects=subjects) | over for i in numbers]
        write_table(folder / "manifest.parquet", MANIFEST, rows)
        card = {"schema_version": SCHEMA_VERSION, "dataset": dataset, "access": access}
        write_json(folder / "card.json", card | {"counts": {"norm": {"none": n}}})
        return root

    return make


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Write a finished run with a tiny, untrained model below a root; return its folder."""
    torch.set_num_threads(1)
    from imitate.train.network.backbone import BackboneConfig
    from imitate.train.network.folder import save_model
    from imitate.train.network.model import ImageConfig, ModelConfig, build_model
    from imitate.train.network.text import TextConfig, build_text_encoder

    def make(
        root: Path,
        name: str = "run",
        *,
        trained_on: dict[str, str] | None = None,
        when: str = "1",
        seed: int = 3,
    ) -> Path:
        image = ImageConfig(size=16, resize=16, channels=1, mean=(0.5,), std=(0.25,))
        config = ModelConfig(backbone=BackboneConfig(name="tiny"), image=image, embed_dim=32)
        text = build_text_encoder(TextConfig(model="tiny", pooling="mean"), texts=WORDS)
        model = build_model(config, text_width=text.width, seed=seed)
        folder = Folders(root).run(name)
        facts = {
            "access": "open",
            "seed": seed,
            "dataset": trained_on or {"name": "x", "digest": "0"},
        }
        save_model(model, text, folder / "model", facts)
        write_json(folder / "card.json", facts | {"finished": True, "run": {"finished": when}})
        write_text(folder / "recipe.yaml", "name: demo\n")
        return folder

    return make


@pytest.fixture(scope="session")
def built(
    tmp_path_factory: pytest.TempPathFactory, make_set: MakeSet, make_run: Callable[..., Path]
) -> Path:
    """A root with the set, its shards and the run; tests that write take a copy of it."""
    from imitate.shards.plan import ShardOptions
    from imitate.shards.write import write_shards

    root = make_set(tmp_path_factory.mktemp("built"))
    make_run(root)
    write_shards(root, "phantom-rsna", ShardOptions(samples=30))
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "root"))


@pytest.fixture(scope="session")
def make_cell_work() -> Callable[..., Work]:
    """Make the work of one cell of an evaluation, in a folder; keywords replace what it has."""

    def make(
        source: OurModel,
        tests: TestSet,
        folder: Path,
        /,
        *,
        task: str,
        fraction: float = 1.0,
        seed: int = 0,
        **over: object,
    ) -> Work:
        interrupts = Interrupts()
        cell = Cell(
            encoder="run",
            run_digest=source.digest,
            pretrain_seed=3,
            task=task,
            fraction=fraction,
            draw=0,
            head_seed=seed,
        )
        pictures = Pictures(
            tests=tests,
            folder=folder / "features",
            name="own",
            digest=source.digest,
            load=lambda: source.load("cpu"),
            crew=Crew(),
            workers=1,
            progress="none",
            interrupts=interrupts,
        )
        known = {"cell": cell, "tests": tests, "pictures": pictures, "interrupts": interrupts}
        known |= {"options": EvalOptions(progress="none"), "device": torch.device("cpu")}
        known |= {"folder": folder / "unfinished"}
        return Work(**(known | over))  # type: ignore[arg-type]

    return make


class Block(nn.Module):
    """A basic residual block in torchvision's names."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = self.downsample(x) if self.downsample else x
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + short)


class ResNet(nn.Module):
    """A small ResNet in torchvision's names, as the published code saves it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2))
        self.layer3 = nn.Sequential(Block(8, 8, 2))
        self.layer4 = nn.Sequential(Block(8, 16, 2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean(dim=(2, 3))


@pytest.fixture
def net() -> ResNet:
    torch.manual_seed(0)
    net = ResNet(3)
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def weights(net: ResNet, tmp_path: Path) -> Path:
    torch.save(net.state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


@pytest.fixture(scope="session")
def siim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a phantom of SIIM, prepared at 64 pixels and sharded."""
    from imitate.prep.commands import app
    from imitate.prep.phantoms.siim import write_siim
    from imitate.shards.plan import ShardOptions
    from imitate.shards.write import write_shards

    root = tmp_path_factory.mktemp("siim")
    write_siim(root / "source", pictures=90, seed=3, size=64)
    arguments = [root / "source", "--root", root, "--name", "phantom-siim", "--size", 64, "--quiet"]
    app(["siim", *map(str, arguments)], standalone_mode=False)
    write_shards(root, "phantom-siim", ShardOptions(samples=40))
    return root
