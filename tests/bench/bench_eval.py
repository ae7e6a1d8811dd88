"""Linear probe: features computed once, against 50 epochs of forward passes with the same head."""

import time
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from imitate.eval.heads.probe import probe
from imitate.eval.metrics import Floats, Part, Scored, auroc, ones
from imitate.train.network.backbone import BackboneConfig
from imitate.train.network.model import ImageConfig, ModelConfig, VisionLanguageModel, build_model

Parts = dict[str, tuple[Tensor, Tensor]]  # pictures [N, H, W] and targets [N] of each split

SIDE, EPOCHS, BATCH = 64, 50, 64
ROUNDS = 3  # of the quick side; the slow one is long enough
PARTS = {"train": 600, "validate": 200, "test": 400}


def films(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a soft patch in some pictures; how strong it is varies. [N, H, W], [N]"""
    rng = np.random.default_rng(seed)
    target_N = rng.random(n) < 0.4
    v_HW, u_HW = np.mgrid[:SIDE, :SIDE] / SIDE
    patch_HW = np.exp(-((u_HW - 0.3) ** 2 + (v_HW - 0.6) ** 2) / 0.02)
    strength_N = rng.uniform(0, 90, n) * target_N
    noise_NHW = rng.normal(110, 40, (n, SIDE, SIDE))
    pixels_NHW = noise_NHW + strength_N[:, None, None] * patch_HW
    return torch.from_numpy(np.clip(pixels_NHW, 0, 255).astype(np.uint8)), torch.tensor(target_N)


def features(model: VisionLanguageModel, image_NHW: Tensor) -> Tensor:
    batches = image_NHW.split(BATCH)
    return torch.cat([model.features(batch_BHW) for batch_BHW in batches])


def cached(model: VisionLanguageModel, parts: Parts) -> Scored:
    """Score the test pictures by the probe of the package."""
    data = [
        Part(features=features(model, x).numpy(), targets=y.numpy().astype(float)[:, None])
        for x, y in parts.values()
    ]
    return probe(*data)


def every_epoch(model: VisionLanguageModel, parts: Parts, strength: float) -> Floats:
    """Score the test pictures by the same head, trained as published protocols do.

    Every epoch passes the training pictures in batches, and then the validation pictures, through
    the frozen backbone. The head has the L2 strength that the probe has found.
    """
    torch.manual_seed(0)
    (x_train, y_train), (x_validate, _), (x_test, _) = parts.values()
    norm = nn.BatchNorm1d(model.backbone.width, affine=False, momentum=None, eps=1e-12)
    head = nn.Linear(model.backbone.width, 1)
    norm(features(model, x_train))
    norm.eval()
    optim = torch.optim.Adam(head.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, EPOCHS)
    loss_of = nn.BCEWithLogitsLoss()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x_train)).split(BATCH):
            loss = loss_of(head(norm(model.features(x_train[rows])))[:, 0], y_train[rows].float())
            loss = loss + head.weight.square().sum() / (2 * strength * len(x_train))
            optim.zero_grad()
            loss.backward()
            optim.step()
        schedule.step()
        features(model, x_validate)
    with torch.no_grad():
        return head(norm(features(model, x_test)))[:, 0].double().numpy()


def bench() -> list[dict[str, Any]]:
    """Return the two goals: how much quicker, and how far apart the AUROCs are."""
    torch.set_num_threads(1)
    image = ImageConfig(size=SIDE, resize=SIDE, channels=1, mean=(0.45,), std=(0.25,))
    config = ModelConfig(backbone=BackboneConfig(name="tiny"), image=image)
    model = build_model(config, text_width=8, seed=0)
    parts = {name: films(n, seed) for seed, (name, n) in enumerate(PARTS.items())}
    model.features(parts["train"][0][:BATCH])  # the first pass pays for what later ones share
    with threadpool_limits(1):
        once = []
        for _ in range(ROUNDS):
            start = time.process_time()
            scored = cached(model, parts)
            once.append(time.process_time() - start)
        start = time.process_time()
        score_N = every_epoch(model, parts, scored.strength or 1.0)
        ratio = (time.process_time() - start) / float(np.median(once))
    target_N = parts["test"][1].numpy().astype(float)
    areas = [float(auroc(target_N, s, ones(len(s)))[0]) for s in (scored.scores[:, 0], score_N)]
    apart = abs(areas[0] - areas[1])
    return [
        {
            "goal": "linear probe, features once / 50 epochs of forward passes",
            "target": ">= 20x",
            "measured": ratio,
            "ok": ratio >= 20,
        },
        {
            "goal": "linear probe, AUROC apart from that of the 50 epochs",
            "target": "<= 0.002",
            "measured": apart,
            "ok": apart <= 0.002,
        },
    ]
