"""The diagnosis of the prior: what the targets of a run really say about pairs of samples.

The published prior puts more than half of a row's mass on near-uniform off-diagonals (method.md
A.6); these numbers show at the start of a run whether its own does. Axes: N samples of a batch
that have the section, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ...shards.order import Ordinals
from .loss import Branch
from .task import PictureTask, PretrainTask

Floats = NDArray[np.float64]
Labels = Mapping[str, float]

NORMAL = ("No Finding", "normal")  # labels of CheXpert and Open-i that say there is none


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the targets of one branch say, as means over rows.

    `row_sum` with its least and greatest value; `off_share` of the mass that lies off the
    positives (the rows of an identical text); `kl_uniform` of that mass to an even spread, in
    nats; `label_ratio`, the mean weight of pairs that share a finding over that of pairs of which
    one has a finding and the other has none. None where nothing of the kind occurs.
    """

    row_sum: float
    row_sum_min: float
    row_sum_max: float
    off_share: float
    kl_uniform: float | None
    label_ratio: float | None

    def sentence(self, branch: str) -> str:
        """Return the diagnosis in one line."""
        parts = [
            f"rows sum to {self.row_sum_min:.2f}-{self.row_sum_max:.2f}",
            f"{self.off_share:.0%} of the mass off the positives",
        ]
        if self.kl_uniform is not None:
            parts.append(f"{self.kl_uniform:.2f} nats from uniform")
        if self.label_ratio is not None:
            parts.append(f"pairs that share a label weigh {self.label_ratio:.1f}x conflicting ones")
        return f"prior of {branch}: {', '.join(parts)}"

    def as_dict(self) -> dict[str, float | None]:
        """Return the numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One branch in one batch: its targets, codes equal for identical texts, and labels."""

    targets: Floats  # [N, N]
    same: NDArray[np.int64]  # [N]
    labels: Sequence[Labels]  # [N]


def diagnose(batches: Sequence[Observed]) -> Diagnosis:
    """Return the diagnosis of one branch over some batches, each with at least one row."""
    sums = np.concatenate([batch.targets.sum(axis=1) for batch in batches])
    offs, divergences = [], []
    sharing, conflicting = [], []
    for batch in batches:
        off_NN = np.where(_same(batch.same), 0.0, batch.targets)
        offs.append(off_NN.sum(axis=1))
        divergences += _divergences(off_NN, batch.same)
        shares_NN, conflicts_NN = _label_pairs(batch.labels)
        open_NN = ~_same(batch.same)
        sharing.append(off_NN[shares_NN & open_NN])
        conflicting.append(off_NN[conflicts_NN & open_NN])
    shared, conflict = _mean(np.concatenate(sharing)), _mean(np.concatenate(conflicting))
    return Diagnosis(
        row_sum=float(sums.mean()),
        row_sum_min=float(sums.min()),
        row_sum_max=float(sums.max()),
        off_share=float((np.concatenate(offs) / sums).mean()),
        kl_uniform=_mean(np.array(divergences)),
        label_ratio=shared / conflict if shared is not None and conflict else None,
    )


def diagnose_prior(
    task: PictureTask, batches: Sequence[Ordinals], labels: Sequence[Labels]
) -> dict[Branch, Diagnosis]:
    """Return the diagnosis of each branch that a vision-language term trains.

    `batches` are ordinals of the first global batches, `labels` those of every sample by its
    ordinal. A task without such terms has no prior.
    """
    if not isinstance(task, PretrainTask):
        return {}
    found: dict[Branch, Diagnosis] = {}
    for branch in task.criterion.config.language:
        seen = [_observe(task, branch, step, batch, labels) for step, batch in enumerate(batches)]
        seen = [batch for batch in seen if len(batch.same)]
        if seen:
            found[branch] = diagnose(seen)
    return found


def _observe(
    task: PretrainTask, branch: Branch, step: int, batch: Ordinals, labels: Sequence[Labels]
) -> Observed:
    targets_NN, ordinals_N = task.targets(branch, batch, step=step, epoch=0)
    corpus, section = task.corpus, task.criterion.config.section(branch)
    return Observed(
        targets=targets_NN.double().numpy(),
        same=corpus.same[section][corpus.positions(ordinals_N)],
        labels=[labels[ordinal] for ordinal in ordinals_N.tolist()],
    )


def _same(same_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.equal(same_N[:, None], same_N[None, :])


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _divergences(off_NN: Floats, same_N: NDArray[np.int64]) -> list[float]:
    """Return the divergence KL(row off the positives || even spread), of rows that have one."""
    found = []
    for off_N, open_N in zip(off_NN, ~_same(same_N), strict=True):
        mass = off_N.sum()
        if mass > 0:
            share = off_N[open_N] / mass
            share = share[share > 0]
            found.append(float((share * np.log(share * open_N.sum())).sum()))
    return found


def _label_pairs(marked: Sequence[Labels]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pairs share a finding, and of which one has a finding and the other none.

    A sample without findings has labels, and all of them are 0 but the one that says so.
    """
    labels = [{n: value for n, value in each.items() if n not in NORMAL} for each in marked]
    none_N = np.array(
        [bool(m) and not any(e.values()) for m, e in zip(marked, labels, strict=True)]
    )
    names = sorted({name for each in labels for name, value in each.items() if value == 1})
    found_NL = np.array([[each.get(name) == 1 for name in names] for each in labels], dtype=bool)
    found_NL = found_NL.reshape(len(labels), len(names))
    some_N = np.asarray(found_NL.any(axis=1))
    shares_NN = found_NL.astype(np.int64) @ found_NL.T.astype(np.int64) > 0
    conflicts_NN = np.logical_and(some_N[:, None], none_N[None, :])
    return shares_NN, conflicts_NN | conflicts_NN.T
