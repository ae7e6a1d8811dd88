"""Curves of a run: ROC, precision and recall, calibration, shares of labels, and learning.

Axes: N test films.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from ...page import SMALL, Axis, Curve, Plot, Plots
from ..metrics import MACRO, Floats, probabilities
from ..statistics.answers import Answers
from ..statistics.comparison import METRICS as MAIN
from ..statistics.kept import PLACE
from ..table import CONTROLS
from .opened import Opened

LABELS = 6  # labels drawn, those with most positives
POINTS = 200  # of a curve; more would only be a thick line
COARSE = 20  # of one that is to be shared: each step of a finer one would be a patient
BINS = 10  # of the calibration at most, each with as many films
IN_BIN = 10  # films of a bin at least; the share of fewer jumps by chance alone
UNIT = tuple((tick / 5, f"{tick / 5:g}") for tick in range(6))
Points = tuple[tuple[float, float], ...]
Known = tuple[str, Floats, Floats, float | None]  # a curve's name, its targets, scores and slope


def answer_plots(opened: Opened, task: str, *, shareable: bool) -> Iterator[Plots]:
    """Yield ROC, precision and recall, and calibration of a task whose labels have scores.

    Of one label encoder and controls, of several the encoder alone, a curve a label. In a page
    that is to be shared a label with fewer than 10 positives or negatives has none.
    """
    cells = [told["cell"] for told in opened.cells(task, controls=True)]
    at = {tuple(cell[name] for name in PLACE) for cell in cells}
    found = [(c, a) for c, a in opened.kept.answered if tuple(c[name] for name in PLACE) in at]
    known = list(_known(found, least=SMALL if shareable else 1))
    if known:
        points, least = (COARSE, SMALL) if shareable else (POINTS, 0)
        plots = _roc(task, known, points), _precision(task, known, points)
        yield Plots(plots=(*plots, _calibration(task, known, least=least)))


def _known(found: Sequence[tuple[Mapping[str, Any], Answers]], *, least: int) -> Iterator[Known]:
    """Yield what the curves are drawn of."""
    sole = all(answers.counted.sum() <= 1 for _, answers in found)
    for cell, answers in found:
        if not sole and cell["encoder"] in CONTROLS:
            continue
        positive_L = (answers.targets == 1).sum(axis=0)
        places = [
            label for label in np.argsort(-positive_L, kind="stable") if answers.counted[label]
        ]
        for label in places[:LABELS]:
            used_N = ~np.isnan(answers.targets[:, label])
            target_N, score_N = answers.targets[used_N, label], answers.scores[used_N, label]
            if min((target_N == 1).sum(), (target_N == 0).sum()) >= least:
                name = (
                    f"{cell['encoder']}, {answers.labels[label]}" if sole else answers.labels[label]
                )
                yield name, target_N, score_N, answers.settled[label].slope


def _roc(task: str, known: Sequence[Known], most: int) -> Plot:
    curves = []
    for name, target_N, score_N, _ in known:
        false, true, _ = roc_curve(target_N, score_N)
        curves.append(Curve(name=name, points=_thin(false, true, most)))
    guide = Curve(name="chance", points=((0, 0), (1, 1)), look="guide")
    axes = {"x": _unit("1 − specificity"), "y": _unit("sensitivity")}
    return Plot(title=f"{task}: ROC", curves=(*curves, guide), **axes)


def _precision(task: str, known: Sequence[Known], most: int) -> Plot:
    curves = []
    for name, target_N, score_N, _ in known:
        precision, recall, _ = precision_recall_curve(target_N, score_N)
        # of the thresholds that find as many, the highest: the area counts no other
        rising = np.flatnonzero(np.diff(recall[::-1]) > 0) + 1
        first = np.insert(precision[::-1][rising], 0, precision[::-1][rising[0]])
        points = _thin(np.insert(recall[::-1][rising], 0, 0.0), first, most)
        # level up to each point: the area below is the average precision, as it is measured
        steps = [at for (x, _), (u, v) in itertools.pairwise(points) for at in ((x, v), (u, v))]
        curves.append(Curve(name=name, points=tuple(steps)))
    axes = {"x": _unit("sensitivity (recall)"), "y": _unit("precision")}
    return Plot(title=f"{task}: precision and recall", curves=tuple(curves), **axes)


def _calibration(task: str, known: Sequence[Known], *, least: int) -> Plot:
    """Draw the share of positives over the mean probability, in bins of as many films each."""
    curves = []
    for name, target_N, score_N, slope in known:
        if slope is not None:
            points = _binned(target_N, probabilities(score_N, slope=slope), least)
            curves.append(Curve(name=name, points=points, look="both"))
    guide = Curve(name="calibrated", points=((0, 0), (1, 1)), look="guide")
    axes = {"x": _unit("probability"), "y": _unit("share of positives")}
    return Plot(title=f"{task}: calibration", curves=(*curves, guide), **axes)


def _binned(target_N: Floats, value_N: Floats, least: int) -> Points:
    """Return mean probability and share of positives of each bin.

    A bin with fewer than `least` positives or negatives is left out, unless it has none of them.
    """
    order_N = np.argsort(value_N, kind="stable")
    points = []
    for bin_K in np.array_split(order_N, min(BINS, max(1, len(order_N) // IN_BIN))):
        positive = int((target_N[bin_K] == 1).sum())
        if not any(0 < count < least for count in (positive, len(bin_K) - positive)):
            points.append((float(value_N[bin_K].mean()), float(target_N[bin_K].mean())))
    return tuple(points)


def label_plots(opened: Opened, task: str) -> Iterator[Plots]:
    """Yield the main metric over the share of training labels, where there are several shares."""
    metric = MAIN.get(task, ("auroc",))[0]
    rows = [row for row in opened.rows if row["task"] == task and row["metric"] == metric]
    rows = [r for r in rows if r["value"] is not None and r["fraction"]]
    rows = [r for r in rows if r["label"] == MACRO] or rows
    shares = sorted({row["fraction"] for row in rows})
    if len(shares) < 2:
        return
    rows = [row for row in rows if row["threshold_source"] == rows[0]["threshold_source"]]
    curves = []
    for encoder in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == encoder]
        curves.append(_efficiency(encoder, own, opened, metric))
    ticks = tuple((math.log10(share), f"{100 * share:.4g} %") for share in shares)
    margin = 0.08 * (ticks[-1][0] - ticks[0][0])
    low, high = ticks[0][0] - margin, ticks[-1][0] + margin
    x = Axis(name="share of the training labels", low=low, high=high, ticks=ticks)
    y = _unit(metric)
    yield Plots(plots=(Plot(title=f"{task}: {metric} by labels", x=x, y=y, curves=tuple(curves)),))


def _efficiency(
    encoder: str, rows: Sequence[Mapping[str, Any]], opened: Opened, metric: str
) -> Curve:
    """Return the mean at each share, with the interval of a single cell or of all repeats."""
    joined = {
        row["fraction"]: row
        for row in opened.statistics.get("summary", [])
        if (row["encoder"], row["task"], row["metric"]) == (encoder, rows[0]["task"], metric)
    }
    points, bars = [], []
    for share in sorted({row["fraction"] for row in rows}):
        at = [row for row in rows if row["fraction"] == share]
        told = joined.get(share) if len(at) > 1 else at[0]
        place = math.log10(share)
        points.append((place, float(np.mean([row["value"] for row in at]))))
        if told is not None and told["ci_low"] is not None:
            bars.append((place, float(told["ci_low"]), float(told["ci_high"])))
    return Curve(name=encoder, points=tuple(points), look="both", bars=tuple(bars))


def learning_plots(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Plots]:
    """Yield losses, retrieval on validation, and learning rate over the samples consumed."""
    if not metrics:
        return
    measured = [row for row in metrics if "validate/loss" in row]
    losses = [name for name in metrics[-1] if name == "loss" or name.startswith("loss/")]
    curves = [_over(metrics, name, name) for name in sorted(losses)]
    if measured:
        curves.append(_over(measured, "validate/loss", "validate/loss", look="both"))
    plots = [_against_samples("Loss", "loss", curves)]
    recalls = sorted(n for n in (measured[-1] if measured else ()) if n.endswith("/pair/r@10"))
    if recalls:
        named = {n: n.removeprefix("validate/").removesuffix("/pair/r@10") for n in recalls}
        curves = [_over(measured, name, word, look="both") for name, word in named.items()]
        plots.append(_against_samples("Retrieval on validation", "recall@10, exact pair", curves))
    plots.append(_against_samples("Learning rate", "learning rate", [_over(metrics, "lr", "lr")]))
    yield Plots(plots=tuple(plots))


def head_plots(opened: Opened, task: str) -> Iterator[Plots]:
    """Yield how a head was trained: loss, and what was monitored on validation, of each epoch."""
    for told in opened.cells(task, controls=False):
        if told.get("losses"):
            pairs = (("training", "losses"), ("monitored on validation", "judged"))
            curves = [
                Curve(
                    name=word, points=tuple(enumerate(map(float, told[key]), start=1)), look="both"
                )
                for word, key in pairs
            ]
            chosen = f"learning rate {told['lr']:g}, best epoch {told['best_epoch']}"
            title = f"{task}: training of the head, {chosen}"
            yield Plots(plots=(_plot(title, "epoch", "loss, monitored value", curves),))


def _over(rows: Sequence[Mapping[str, Any]], name: str, word: str, *, look: Any = "line") -> Curve:
    there = [row for row in rows if name in row]
    found = np.array([(row["samples"], row[name]) for row in there], dtype=np.float64)
    parts = np.array_split(found, min(POINTS, len(found)))
    return Curve(
        name=word, points=tuple((p[:, 0].mean(), p[:, 1].mean()) for p in parts), look=look
    )


def _against_samples(title: str, y: str, curves: Sequence[Curve]) -> Plot:
    return _plot(title, "samples consumed", y, curves)


def _plot(title: str, x: str, y: str, curves: Sequence[Curve]) -> Plot:
    points = [point for curve in curves for point in curve.points]
    across = [place for place, _ in points if math.isfinite(place)]
    up = [value for _, value in points if math.isfinite(value)]
    return Plot(title=title, x=_linear(x, across), y=_linear(y, up), curves=tuple(curves))


def _linear(name: str, values: Sequence[float]) -> Axis:
    """Return an axis from 0, or from the least value, in about five round steps."""
    low, high = min([0.0, *values]), max(values, default=1.0)
    high = high if high > low else low + 1.0
    raw = (high - low) / 5
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    ticks = tuple((k * step, f"{round(k * step, 12):,.6g}") for k in range(first, last + 1))
    return Axis(name=name, low=first * step, high=last * step, ticks=ticks)


def _unit(name: str) -> Axis:
    return Axis(name=name, low=0.0, high=1.0, ticks=UNIT)


def _thin(x: npt.NDArray[Any], y: npt.NDArray[Any], most: int) -> Points:
    """Return the points of a curve, evenly thinned to the most allowed with both ends."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).round().astype(np.int64))
    return tuple((float(x[i]), float(y[i])) for i in keep)
