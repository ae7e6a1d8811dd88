import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, distributed

from imitate.contract import ConfigError
from imitate.train.objective.contrast import contrast, gather
from imitate.train.objective.loss import (
    Aligned,
    ContrastiveLoss,
    LossConfig,
    Texts,
    findings_weight,
    language_targets,
)
from imitate.train.objective.reports.facts import label_likeness, person_likeness
from imitate.train.objective.targets import (
    PriorConfig,
    blended,
    evened,
    mended_targets,
    mixed_prior,
    shared_text,
    source_targets,
    text_weights,
)

N, D, E = 7, 4, 6
SAME = torch.tensor([0, 1, 0, 2, 3, 3, 4])
STUDY = torch.tensor([0, 1, 2, 2, 3, 3, 4])


def drawn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def aligned(seed: int = 0, rows: Tensor | None = None) -> Aligned:
    rows = torch.arange(N) if rows is None else rows
    source = drawn(seed + 9, N, E)
    return Aligned(
        language=[drawn(seed + v, N, D)[rows] for v in (0, 1)],
        vision=[drawn(seed + v, N, D)[rows] for v in (2, 3)],
        text=drawn(seed + 4, N, D)[rows],
        texts=Texts(source=source[rows], centre=source.mean(0), same=SAME[rows], study=STUDY[rows]),
    )


def naive_contrast(
    x: Tensor,
    y: Tensor,
    targets: Tensor,
    temperature: float,
    masked: Sequence[tuple[int, int]] = (),
) -> float:
    """Both directions of the soft cross-entropy, pair by pair."""
    total, n = 0.0, len(x)
    for a, b in ((x, y), (y, x)):
        for i in range(n):
            logits = {}
            for j in range(n):
                if (i, j) not in masked:
                    lengths = math.sqrt(sum(a[i] ** 2)) * math.sqrt(sum(b[j] ** 2))
                    logits[j] = float(sum(a[i] * b[j])) / lengths / temperature
            norm = math.log(sum(math.exp(value) for value in logits.values()))
            total -= sum(float(targets[i, j]) * (value - norm) for j, value in logits.items()) / n
    return total


SIBLINGS = [(i, j) for i in range(N) for j in range(N) if i != j and STUDY[i] == STUDY[j]]


def test_the_default_loss_equals_a_double_loop() -> None:
    config = LossConfig()
    impression, findings = aligned(0), aligned(50)
    losses = ContrastiveLoss(config)({"impression": impression, "findings": findings}, epoch=40)
    expected = {}
    for name, batch in (("impression", impression), ("findings", findings)):
        targets = mended_targets(
            batch.texts.source, SAME, centre_E=batch.texts.centre, alpha=config.prior.alpha
        )
        expected[name] = sum(naive_contrast(v, batch.text, targets, 0.07) for v in batch.language)
        first, second = batch.vision
        expected[f"vision_{name}"] = naive_contrast(
            first, second, torch.eye(N), 0.2, SIBLINGS
        ) + naive_contrast(second, first, torch.eye(N), 0.2, SIBLINGS)
    weight = 1.3 - 10 / 20
    expected["loss"] = (
        expected["impression"]
        + expected["vision_impression"]
        + weight * (expected["findings"] + expected["vision_findings"])
    )
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)


@pytest.mark.parametrize("kernel", ["exp", "gau", "lap", "sigmoid"])
def test_the_published_loss_equals_a_double_loop(kernel: Any) -> None:
    config = LossConfig(targets="source", vision="source", kernel=kernel)
    impression, findings = aligned(0), aligned(50)
    losses = ContrastiveLoss(config)({"impression": impression, "findings": findings}, epoch=0)

    def prior(batch: Aligned, temperature: float) -> Tensor:
        return source_targets(
            batch.texts.source, temperature=temperature, kernel=kernel, ratio=config.ratio
        )

    def vision(batch: Aligned, targets: Tensor) -> float:
        first, second = batch.vision
        return naive_contrast(first, second, targets, 0.2) + naive_contrast(
            second, first, targets, 0.2
        )

    expected = {
        name: sum(
            naive_contrast(view, batch.text, prior(batch, 0.07), 0.07) for view in batch.language
        )
        for name, batch in (("impression", impression), ("findings", findings))
    }
    expected["vision_impression"] = vision(impression, prior(impression, 0.2))
    expected["vision_findings"] = vision(findings, torch.eye(N))
    expected["loss"] = sum(expected.values())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)


def test_plain_contrast_is_one_term_on_the_diagonal() -> None:
    config = LossConfig(terms=("report",), targets="onehot")
    batch = aligned()
    losses = ContrastiveLoss(config)({"report": batch}, epoch=0)
    expected = sum(naive_contrast(v, batch.text, torch.eye(N), 0.07) for v in batch.language)
    assert list(losses) == ["report", "loss"]
    assert losses["loss"].item() == pytest.approx(expected)


def test_a_section_that_nobody_has_gives_zero() -> None:
    losses = ContrastiveLoss(LossConfig())({"impression": aligned()}, epoch=0)
    assert losses["findings"].item() == losses["vision_findings"].item() == 0
    total = losses["impression"] + losses["vision_impression"]
    torch.testing.assert_close(losses["loss"], total)


@pytest.mark.parametrize("targets", ["mended", "source", "onehot"])
def test_the_targets_do_not_depend_on_who_asks(targets: Any) -> None:
    config, batch = LossConfig(targets=targets), aligned()
    made = language_targets(config, batch.texts, config.prior.alpha)
    if targets == "onehot":
        assert torch.equal(made, torch.eye(N))
    losses = ContrastiveLoss(LossConfig(terms=("impression",), targets=targets))(
        {"impression": batch}, epoch=0
    )
    expected = sum(naive_contrast(view, batch.text, made, 0.07) for view in batch.language)
    assert losses["impression"].item() == pytest.approx(expected)


FACTS = {
    "labels": torch.rand(N, 3, generator=torch.Generator().manual_seed(1)).round(),
    "view": torch.tensor([0, 0, 1, 1, 0, -1, 0]),
    "sex": torch.tensor([0, 1, 0, 1, 0, 1, -1]),
    "age": torch.tensor([40.0, 45, 50, 80, 41, 60, torch.nan]),
}
TURNED = torch.tensor([3, 0, 5, 6, 1, 2, 4])


@pytest.mark.parametrize("targets", ["mended", "source"])
@pytest.mark.parametrize("kind", ["text", "permuted", "uniform", "none"])
def test_controls_of_the_prior_are_those_they_are_called(targets: Any, kind: Any) -> None:
    config = LossConfig(targets=targets, prior=PriorConfig(kind=kind))
    batch = aligned()
    others = TURNED if kind == "permuted" else None
    texts = dataclasses.replace(batch.texts, others=others)
    made = language_targets(config, texts, 0.2)

    def plain(source: Tensor) -> Tensor:
        if targets == "mended":
            return mended_targets(source, SAME, centre_E=texts.centre, alpha=0.2)
        return source_targets(source, temperature=0.07, kernel="exp", ratio=0.2)

    shared = shared_text(SAME) if targets == "mended" else torch.eye(N)
    if kind in ("text", "permuted"):
        expected = plain(texts.source if others is None else texts.source[TURNED])
    elif kind == "none":
        expected = shared
    else:
        expected = evened(plain(texts.source) * (shared == 0), shared > 0)
        expected += plain(texts.source) * (shared > 0)
    torch.testing.assert_close(made.double(), expected.double())


def test_the_prior_mixes_what_is_known() -> None:
    config = LossConfig(prior=PriorConfig(knowledge=0.4, metadata=0.1))
    texts = dataclasses.replace(aligned().texts, facts=FACTS)
    shared = shared_text(SAME)
    people = (FACTS["view"], FACTS["sex"], FACTS["age"])
    parts = [
        (0.5, text_weights(texts.source, texts.centre)),
        (0.4, label_likeness(FACTS["labels"])),
        (0.1, person_likeness(*people)),
    ]
    expected = blended(shared, mixed_prior(parts, shared > 0), 0.3)
    torch.testing.assert_close(language_targets(config, texts, 0.3), expected)
    alone = LossConfig(prior=PriorConfig(knowledge=1.0))
    expected = blended(shared, mixed_prior(parts[1:2], shared > 0), 0.3)
    torch.testing.assert_close(language_targets(alone, texts, 0.3), expected)


def test_a_learned_mass_is_pulled_and_told() -> None:
    prior = PriorConfig(adapt="learned", alpha=0.3, pull=1.5)
    criterion = ContrastiveLoss(LossConfig(terms=("impression",), prior=prior))
    batch = aligned()
    logit = criterion.alpha_logit["impression"]
    found = criterion({"impression": batch}, epoch=0)
    assert found["alpha_impression"].item() == pytest.approx(0.3)
    still = ContrastiveLoss(LossConfig(terms=("impression",), prior=PriorConfig(alpha=0.3)))
    torch.testing.assert_close(found["loss"], still({"impression": batch}, epoch=0)["loss"])
    slopes = []
    for at in (-1e-2, 0.0, 1e-2):
        with torch.no_grad():
            logit.fill_(math.log(0.3 / 0.7) + at)
        loss = criterion({"impression": batch}, epoch=0)["loss"]
        logit.grad = None
        loss.backward()
        assert logit.grad is not None
        slopes.append((loss.item(), logit.grad.item()))
    finite = (slopes[2][0] - slopes[0][0]) / 2e-2
    assert slopes[1][1] == pytest.approx(finite, rel=1e-2)


def test_the_schedule_of_the_mass_is_that_of_the_epoch() -> None:
    prior = PriorConfig(alpha=0.4, adapt="scheduled", final=0.0, epochs=4)
    batch = {"impression": aligned()}
    moving = ContrastiveLoss(LossConfig(terms=("impression",), prior=prior))(batch, epoch=3)
    fixed = LossConfig(terms=("impression",), prior=PriorConfig(alpha=0.1))
    torch.testing.assert_close(moving["loss"], ContrastiveLoss(fixed)(batch, epoch=0)["loss"])
    assert moving["alpha_impression"].item() == pytest.approx(0.1)


def test_any_branch_is_a_term_and_reads_the_text_it_is_given() -> None:
    config = LossConfig(
        terms=("diagnosis", "vision_observations"),
        texts={"diagnosis": "impression"},
        weighted=("observations",),
    )
    assert config.branches == ("diagnosis", "observations")
    assert config.sections == ("impression", "observations")
    assert config.language == ("diagnosis",)
    first, second = aligned(0), aligned(50)
    losses = ContrastiveLoss(config)({"diagnosis": first, "observations": second}, epoch=40)
    expected = losses["diagnosis"] + 0.8 * losses["vision_observations"]
    torch.testing.assert_close(losses["loss"], expected)


def test_part_of_the_terms_has_the_same_weights() -> None:
    config = LossConfig(prior=PriorConfig(adapt="learned"))
    whole = ContrastiveLoss(config)
    part = whole.of_language()
    assert part.config.terms == ("impression", "findings")
    assert part.alpha_logit["findings"] is whole.alpha_logit["findings"]


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(masked: bool) -> None:
    targets = mended_targets(drawn(5, N, E), SAME, centre_E=None, alpha=0.2)
    mask = (STUDY[:, None] == STUDY[None, :]) & ~torch.eye(N, dtype=torch.bool)
    targets = torch.eye(N) if masked else targets

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return contrast(x, y, targets, temperature=0.3, masked_NN=mask if masked else None)

    x, y = (drawn(seed, N, D).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(loss, (x, y))


EVERY = [("mended", "exp"), ("onehot", "exp")]
EVERY += [("source", kernel) for kernel in ("exp", "gau", "lap", "sigmoid")]


@pytest.mark.parametrize(("targets", "kernel"), EVERY)
@pytest.mark.parametrize("missing", [(), (1, 4)])
def test_gradients_of_every_recipe_equal_finite_differences(
    targets: Any, kernel: Any, missing: tuple[int, ...]
) -> None:
    vision: Any = "source" if targets == "source" else "masked"
    criterion = ContrastiveLoss(LossConfig(targets=targets, kernel=kernel, vision=vision))
    impression = aligned(0)
    rows = torch.tensor([i for i in range(N) if i not in missing])
    findings = aligned(50, rows)

    def loss(*parts: Tensor) -> Tensor:
        batches = {
            name: dataclasses.replace(batch, language=part[0:2], vision=part[2:4], text=part[4])
            for name, batch, part in (
                ("impression", impression, parts[:5]),
                ("findings", findings, parts[5:]),
            )
        }
        return criterion(batches, epoch=40)["loss"]  # type: ignore[no-any-return]

    inputs = [
        x.clone().requires_grad_()
        for batch in (impression, findings)
        for x in (*batch.language, *batch.vision, batch.text)
    ]
    assert torch.autograd.gradcheck(loss, inputs)


def test_half_precision_embeddings_are_contrasted_in_float32() -> None:
    x, y = drawn(1, N, D).bfloat16(), drawn(2, N, D).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ContrastiveLoss(LossConfig(terms=("report",), targets="onehot"))
        batch = aligned()
        half = Aligned(language=[x], vision=[], text=y, texts=batch.texts)
        value = loss({"report": half}, epoch=0)["loss"]
    assert value.dtype == torch.float32
    expected = naive_contrast(x.double(), y.double(), torch.eye(N), 0.07)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("epoch", "weight"), [(0, 1), (30, 1), (31, 1.25), (40, 0.8), (49, 0.35), (50, 0.3), (99, 0.3)]
)
def test_weight_of_the_findings_follows_the_published_schedule(epoch: int, weight: float) -> None:
    assert findings_weight(epoch) == pytest.approx(weight)


def test_settings_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        LossConfig(terms=("report", "report"), temperature=0, ratio=0)
    assert len(caught.value.problems) == 3


def test_sections_are_those_of_the_terms() -> None:
    assert LossConfig().sections == ("impression", "findings")
    assert LossConfig(terms=("vision_findings", "report")).sections == ("findings", "report")


def test_what_only_the_mended_targets_know_is_refused_elsewhere() -> None:
    with pytest.raises(ConfigError) as caught:
        LossConfig(targets="source", prior=PriorConfig(knowledge=0.5, adapt="scheduled"))
    assert len(caught.value.problems) == 2


def test_without_ranks_the_batch_is_the_global_batch() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x) is x


def run_rank(rank: int, ranks: int, folder: str) -> None:
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    share = N // ranks
    x = drawn(1, share * ranks, D)
    weight = drawn(2, D, D).requires_grad_()
    mine = x[rank * share : (rank + 1) * share] @ weight
    whole = gather(mine)
    (contrast(whole, x, torch.eye(len(x)), temperature=0.1)).backward()
    assert weight.grad is not None
    distributed.all_reduce(weight.grad)
    codes = gather(torch.arange(rank * share, (rank + 1) * share))
    torch.save(
        {"grad": weight.grad / ranks, "whole": whole.detach(), "codes": codes},
        Path(folder) / f"{rank}.pt",
    )
    distributed.destroy_process_group()


def test_one_rank_is_the_global_batch(tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        x = torch.randn(3, 2, requires_grad=True)
        assert gather(x) is x
    finally:
        distributed.destroy_process_group()


def test_gathered_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (2, str(tmp_path)), nprocs=2)
    x = drawn(1, N // 2 * 2, D)
    weight = drawn(2, D, D).requires_grad_()
    contrast(x @ weight, x, torch.eye(len(x)), temperature=0.1).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["grad"], weight.grad)
        torch.testing.assert_close(found["whole"], (x @ weight).detach())
        assert torch.equal(found["codes"], torch.arange(len(x)))
