"""The picture of a run: losses, retrieval and learning rate over the samples consumed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

POINTS = 500  # points of a curve; more would only be a thick line
VALIDATED = "validate/"  # begins the names of what was measured on the validate split
SHOWN_RECALL = "pair/r@10"

Row = Mapping[str, Any]


def draw_curves(rows: Sequence[Row]) -> bytes:
    """Return the curves of a run as a PNG picture; what was validated is drawn as points."""
    measured = [row for row in rows if f"{VALIDATED}loss" in row]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    heights = (3, 2, 1) if measured else (3, 1)
    axes: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    thin = _thinned(rows)
    samples = [row["samples"] for row in thin]
    for name in sorted(key for key in thin[-1] if key == "loss" or key.startswith("loss/")):
        axes[0].plot(samples, [row[name] for row in thin], label=name, linewidth=1)
    axes[0].set_ylabel("loss")
    if measured:
        _points(axes[0], measured, lambda name: name == f"{VALIDATED}loss")
        _points(axes[1], measured, lambda name: name.endswith(SHOWN_RECALL))
        axes[1].set_ylabel("recall@10, exact pair")
        axes[1].set_ylim(bottom=0)
    for axis in axes[:-1]:
        if axis.has_data():
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="x-small")
    axes[-1].plot(samples, [row["lr"] for row in thin], linewidth=1)
    axes[-1].set_ylabel("learning rate")
    axes[-1].set_xlabel("samples consumed")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _points(axis: Axes, measured: Sequence[Row], wanted: Callable[[str], bool]) -> None:
    samples = [row["samples"] for row in measured]
    for name in sorted(filter(wanted, measured[-1])):
        values = [row[name] for row in measured]
        label = name.removesuffix(f"/{SHOWN_RECALL}").removeprefix(
            VALIDATED if SHOWN_RECALL in name else ""
        )
        axis.plot(samples, values, marker="o", markersize=3, linewidth=1, label=label)


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """Return at most POINTS rows of what every step has, each the mean of as many steps."""
    size = -(-len(rows) // POINTS)
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    names = [name for name in rows[0] if not name.startswith(VALIDATED)]
    return [{n: sum(row[n] for row in group) / len(group) for n in names} for group in groups]
