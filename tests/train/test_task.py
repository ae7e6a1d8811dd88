import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from imitate.contract import ConfigError
from imitate.train.network.backbone import BackboneConfig
from imitate.train.network.branches import TokensConfig
from imitate.train.network.model import ImageConfig, ModelConfig, build_model
from imitate.train.objective.corpus import Corpus
from imitate.train.objective.loss import LossConfig
from imitate.train.objective.reports.facts import read_facts
from imitate.train.objective.targets import PriorConfig, mended_targets
from imitate.train.objective.task import PretrainBatch, PretrainTask
from imitate.train.objective.views import ViewsConfig, make_views

n, E = 12, 6
ORDINALS = np.arange(n, dtype=np.int64) * 3
IMAGE = ImageConfig(size=32, resize=40)
FINDINGS_MISSING, IMPRESSION_MISSING = (1, 4), (2,)
LATERAL = (3, 6)
FACTS = [
    {
        "report_labels": {"Edema": float(i % 3 == 0), "Effusion": (1.0, 0.0, -1.0)[i % 3]},
        "view": "LATERAL" if i in LATERAL else "PA",
        "metadata": {"sex": "FM"[i % 2], "age": str(40 + 3 * i)} if i else {},
    }
    for i in range(n)
]


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(8, E)).astype(np.float32)
    findings, impression = rng.integers(0, 5, n), rng.integers(3, 8, n)
    findings[list(FINDINGS_MISSING)] = -1
    impression[list(IMPRESSION_MISSING)] = -1
    rows = {"findings": findings, "impression": impression, "report": rng.integers(0, 8, n)}
    return Corpus(
        ordinals=ORDINALS,
        keys=tuple(f"key-{i}" for i in range(n)),
        study=np.arange(n) // 2,
        facts=read_facts(FACTS),
        embeddings=embeddings,
        row=rows,  # type: ignore[arg-type]
        same=rows,  # type: ignore[arg-type]
        centre={name: embeddings.mean(0) for name in ("findings", "impression", "report")},
    )


def task(
    loss: LossConfig,
    *,
    norm: Any = "frozen",
    views: ViewsConfig | None = None,
    films: int = 1,
    **model: Any,
) -> PretrainTask:
    config = ModelConfig(
        backbone=BackboneConfig(name="tiny"),
        tokens=TokensConfig(grid=4),
        image=IMAGE,
        embed_dim=12,
        text_hidden=16,
        norm=norm,
        norm_group=4,
        **model,
    )
    return PretrainTask(
        model=build_model(config, text_width=E, seed=0),
        corpus=corpus(),
        loss=loss,
        views=views or ViewsConfig(),
        seed=7,
        films=films,
    )


def pictures(rows: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.stack(
        [np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8) for i in rows]
    )


def batch(task: PretrainTask, rows: Sequence[int] = range(8), *, step: int = 3) -> PretrainBatch:
    return task.prepare(pictures(rows), ORDINALS[list(rows)], step=step, epoch=1)


def naive_head(head: nn.Sequential, x: Tensor) -> Tensor:
    """Linear, batch normalisation, ReLU, linear, batch normalisation, from their formulas."""

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    weights = dict(head.named_parameters())
    x = norm(x @ weights["0.weight"].T + weights["0.bias"])
    x = torch.relu(x * weights["1.weight"] + weights["1.bias"])
    return norm(x @ weights["3.weight"].T + weights["3.bias"])


def both_ways(x: Tensor, y: Tensor, targets: Tensor, temperature: float, keep: Tensor) -> Tensor:
    logits = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T / temperature
    total = torch.zeros(())
    for direction in (logits, logits.T):
        for i in range(len(x)):
            kept = keep[i]
            total = total - (targets[i, kept] * F.log_softmax(direction[i, kept], dim=0)).sum()
    return total / len(x)


def test_the_whole_method_equals_its_description() -> None:
    """Two views, two channel draws each, missing sections left out, every term by hand."""
    it = task(LossConfig())
    given = batch(it)
    losses = it.loss(given)
    model, texts = it.model, it.corpus
    present = {
        "findings": [i for i in range(8) if i not in FINDINGS_MISSING],
        "impression": [i for i in range(8) if i not in IMPRESSION_MISSING],
    }
    expected: dict[str, Tensor] = {}
    for section, rows in present.items():
        source = torch.from_numpy(texts.embeddings[texts.row[section][rows]])
        same = torch.from_numpy(texts.same[section][rows])
        study = torch.from_numpy(texts.study[rows])
        text = naive_head(model.text_head, source)
        centre = torch.from_numpy(texts.centre[section])
        targets = mended_targets(source, same, centre_E=centre, alpha=0.2)
        language, vision = torch.zeros(()), []
        for view in (0, 1):
            levels = model.backbone(
                ((given.views[:, view, None] / 255) - torch.tensor(IMAGE.mean)[:, None, None])
                / torch.tensor(IMAGE.std)[:, None, None]
            )
            if section == "impression":
                first = again = levels["stage4"].mean((2, 3))
                head = model.heads["impression"]
            else:
                first, again = (
                    model.read(
                        "findings",
                        levels,
                        model.draw("findings", "channels", 7, 3, view, use=use),
                    )
                    for use in ("language", "vision")
                )
                head = model.heads["findings"]
            everything = torch.ones(len(rows), len(rows), dtype=torch.bool)
            image = naive_head(head, first[rows])
            language = language + both_ways(image, text, targets, 0.07, everything)
            vision.append(naive_head(head, again[rows]))
        diagonal = torch.eye(len(rows))
        negatives = (study[:, None] != study[None, :]) | (diagonal == 1)
        expected[section] = language
        expected[f"vision_{section}"] = 2 * both_ways(*vision, diagonal, 0.2, negatives)
    expected["loss"] = torch.stack(list(expected.values())).sum()
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", ["mended", "source"])
def test_samples_without_a_section_might_as_well_not_be_there(targets: Any) -> None:
    it = task(LossConfig(terms=("findings", "vision_findings"), targets=targets))
    rows = [i for i in range(8) if i not in FINDINGS_MISSING]
    whole, part = it.loss(batch(it)), it.loss(batch(it, rows))
    for name in whole:
        torch.testing.assert_close(whole[name], part[name], rtol=1e-4, atol=1e-4)


def test_the_same_batch_has_the_same_loss_to_the_bit() -> None:
    one, other = task(LossConfig(), norm="grouped"), task(LossConfig(), norm="grouped")
    assert one.loss(batch(one))["loss"].item() == other.loss(batch(other))["loss"].item()


def test_the_step_draws_other_channels() -> None:
    it = task(LossConfig(terms=("findings",)))
    assert it.loss(batch(it))["loss"] != it.loss(batch(it, step=4))["loss"]


def test_terms_are_those_of_the_configuration() -> None:
    terms: dict[str, LossConfig] = {
        "impression": LossConfig(
            terms=("impression",), texts={"impression": "report"}, targets="onehot"
        ),
        "vision_findings": LossConfig(terms=("vision_findings",)),
    }
    for name, config in terms.items():
        it = task(config)
        losses = it.loss(batch(it))
        assert set(losses) == {name, "loss"}
        losses["loss"].backward()
        trained = {
            branch for branch, head in it.model.heads.items() if head[0].weight.grad is not None
        }
        assert trained == {name.removeprefix("vision_")}


def test_a_batch_in_which_hardly_any_text_is_found_has_no_gradient_but_no_error() -> None:
    it = task(LossConfig(terms=("findings",)))
    losses = it.loss(batch(it, [1, 3, 4]))  # one of them has Findings
    assert losses["loss"].item() == 0
    losses["loss"].backward()
    grads = [p.grad for p in it.model.parameters() if p.grad is not None]
    assert grads and all(not grad.any() for grad in grads)


def test_views_are_those_of_the_samples_keys() -> None:
    it = task(LossConfig())
    rows = [5, 2, 9]
    given = batch(it, rows)
    expected = make_views(
        pictures(rows), [f"key-{i}" for i in rows], ViewsConfig(), image=IMAGE, seed=7, epoch=1
    )
    assert np.array_equal(given.views.numpy(), expected)
    assert it.keys(given) == ["key-5", "key-2", "key-9"]


def test_targets_are_those_the_loss_uses() -> None:
    it = task(LossConfig())
    targets, ordinals = it.targets("findings", ORDINALS[:8], step=0, epoch=0)
    assert ordinals.tolist() == [0, 6, 9, 15, 18, 21]
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_a_control_of_the_prior_is_drawn_anew_each_step() -> None:
    it = task(LossConfig(terms=("impression",), prior=PriorConfig(kind="permuted")))
    first, again, other = (
        it.targets("impression", ORDINALS, step=step, epoch=0)[0] for step in (1, 1, 2)
    )
    plain = task(LossConfig()).targets("impression", ORDINALS, step=1, epoch=0)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, plain)


def test_a_prior_of_labels_needs_labels() -> None:
    prior = PriorConfig(knowledge=0.5, metadata=0.1)
    it = task(LossConfig(prior=prior))
    assert torch.isfinite(it.loss(batch(it))["loss"])
    bare = dataclasses.replace(corpus(), facts=read_facts([{} for _ in range(n)]))
    with pytest.raises(ConfigError, match="--report-labels"):
        PretrainTask(
            model=it.model, corpus=bare, loss=LossConfig(prior=prior), views=it.views, seed=7
        )


def test_only_lateral_films_have_a_view_embedding() -> None:
    it = task(LossConfig(), view_embedding=True)
    plain = task(LossConfig())
    for rows in (range(8), [0, 1, 2, 4, 5]):  # with lateral films, and without
        whole, without = it.loss(batch(it, rows)), plain.loss(batch(plain, rows))
        torch.testing.assert_close(whole["loss"], without["loss"])  # it starts at 0
    with torch.no_grad():
        for embedding in it.model.lateral.values():
            embedding.normal_()
    frontal = it.loss(batch(it, [0, 1, 2, 4, 5]))
    torch.testing.assert_close(frontal["loss"], without["loss"])
    assert not torch.isclose(it.loss(batch(it))["loss"], plain.loss(batch(plain))["loss"])


def test_two_films_of_a_study_are_its_views() -> None:
    it = task(LossConfig(), films=2, view_embedding=True)
    films = ORDINALS[[0, 1, 2, 3, 6, 7, 8, 8]]  # studies of two films, and one of one
    given = it.prepare(pictures([0, 1, 2, 3, 6, 7, 8, 8]), films, step=3, epoch=1)
    assert given.ordinals.tolist() == films[::2].tolist()
    assert it.places(given, 1).tolist() == [1, 3, 7, 8]
    with torch.no_grad():
        it.model.lateral["impression"].fill_(3.0)
    aligned: dict[str, Any] = {}
    it.criterion.forward = lambda branches, epoch: (
        aligned.update(branches)
        or {  # type: ignore
            "loss": torch.zeros(())
        }
    )
    features = it.encode(given)
    it.losses(features, given)
    rows = [0, 2, 3]  # the text of the study is that of its first film; 2 has no Impression
    lateral = {0: [0, 1, 0], 1: [0, 0, 0]}  # of films 0, 6, 8 and 1, 7, 8
    for view, found in enumerate(aligned["impression"].language):
        moved = features[f"pooled {view}"][rows] + 3 * torch.tensor(lateral[view])[:, None]
        torch.testing.assert_close(found, it.model.heads["impression"](moved))


def test_any_number_of_sections_is_aligned_with_levels_of_their_own() -> None:
    terms = ("impression", "findings", "report", "vision_report")
    branches = {"impression": {}, "findings": {"stage4": 0.5}, "report": {"stage1": 0.5}}
    it = task(LossConfig(terms=terms), branches=branches)
    losses = it.loss(batch(it))
    assert set(losses) == {*terms, "loss"}
    losses["report"].backward()
    conv = dict(it.model.backbone.named_parameters())
    last = [p for name, p in conv.items() if "stages.3" in name]
    assert all(p.grad is None or not p.grad.any() for p in last)  # it reads the first level
    assert it.model.embed_branch("report", torch.from_numpy(pictures([1]))).shape == (1, 12)


def test_a_held_out_split_is_seen_with_the_weights_in_training() -> None:
    it = task(LossConfig(prior=PriorConfig(adapt="learned")))
    other = it.held_out(corpus())
    assert other.criterion.alpha_logit is it.criterion.alpha_logit
    assert it.model.training_parts["criterion"] is it.criterion
    losses = other.loss(batch(other))
    assert {"impression", "findings", "loss"} < set(losses)
    assert not any(name.startswith("vision_") for name in losses)
    assert batch(other).views.shape[1] == 1


def test_contrasting_views_needs_two() -> None:
    one_view = ViewsConfig(count=1)
    with pytest.raises(ConfigError, match=r"views\.count"):
        task(LossConfig(), views=one_view)
    it = task(LossConfig(terms=("impression", "findings")), views=one_view)
    assert torch.isfinite(it.loss(batch(it))["loss"])


def run_rank(rank: int, ranks: int, folder: str) -> None:
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    it = task(LossConfig(), norm="grouped")
    share = 8 // ranks
    losses = it.loss(batch(it, range(rank * share, (rank + 1) * share)))
    losses["loss"].backward()
    for parameter in it.model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks
    grads = {name: p.grad for name, p in it.model.named_parameters() if p.grad is not None}
    losses = {name: loss.detach() for name, loss in losses.items()}
    torch.save({"losses": losses, "grads": grads}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (2, str(tmp_path)), nprocs=2)
    it = task(LossConfig(), norm="grouped")
    losses = it.loss(batch(it))
    losses["loss"].backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["losses"], {k: v.detach() for k, v in losses.items()})
        for name, parameter in it.model.named_parameters():
            # a bias before a batch normalisation has nothing but rounding as its gradient
            torch.testing.assert_close(
                found["grads"][name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name
            )


def test_a_step_lowers_the_loss_of_its_batch() -> None:
    it = task(LossConfig(), norm="grouped")
    optimizer = torch.optim.AdamW(it.model.parameters(), lr=1e-3)
    given = batch(it)
    first = it.loss(given)["loss"]
    for _ in range(5):
        loss = it.loss(given)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert it.loss(given)["loss"] < first - 1
