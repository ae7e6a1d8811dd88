"""The report of a run as one page, from its folder and, where they still lie, its shards.

Equal folders give equal bytes: commands as typed, times and machines are not in the page.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ... import __version__
from ...contract import InputError
from ...page import Block, Heading, Page, Plots, Prose, Section, write_page
from ...prep.sheets.report import REPORT, SHAREABLE
from ..encoders.exposure import Exposure
from .curves import answer_plots, head_plots, label_plots, learning_plots
from .examples import TASK, example_blocks
from .films import overlay_sheets, wrong_blocks
from .numbers import (
    comparison_blocks,
    prompt_blocks,
    published_blocks,
    slice_blocks,
    summary_blocks,
    task_blocks,
)
from .opened import Opened, RunFolder
from .origin import command_section, data_section, grey_levels, origin_section
from .overview import overview_section
from .sharing import shared


def write_run_report(folder: Path, *, out: Path | None = None, shareable: bool = False) -> Path:
    """Write the report of a run and return its path, by default inside the run.

    A shareable page holds no picture, text or id, and no count below 10. Raises InputError when a
    file of the run is damaged, UsageError when `folder` is no run.
    """
    run = RunFolder.open(folder)
    path = out or folder / (SHAREABLE if shareable else REPORT)
    page = run_page(run, shareable=shareable)
    write_page(path, page)
    return path


def write_reports(evaluations: Sequence[Path]) -> list[Path]:
    """Write the report of each run that these evaluations belong to, and return their paths.

    A run of which another evaluation is damaged, or of an earlier version, has none; that is said.
    """
    paths = []
    for folder in dict.fromkeys(path.parents[1] for path in evaluations):
        try:
            paths.append(write_run_report(folder))
        except InputError as error:
            sys.stderr.write(f"no report of {folder.name}: {error}\n")
    return paths


def run_page(run: RunFolder, *, shareable: bool) -> Page:
    """Return the page of a run."""
    if shareable:
        run = replace(run, evaluations=tuple(shared(each) for each in run.evaluations))
    sections = (
        _attention(run),
        overview_section(run),
        *(_evaluation(run, each, shareable=shareable) for each in run.evaluations),
        _training(run),
        data_section(run),
        origin_section(run),
        command_section(run),
    )
    return Page(
        title=run.name,
        kicker=f"Run of imitate and its evaluations ({run.access})"
        + (": phantom data, synthetic, no patient's" if run.phantom else ""),
        lead=tuple(_lead(run)),
        headline=tuple(_headline(run)),
        sections=tuple(section for section in sections if section),
        access=run.access,
        phantom=run.phantom,
        shareable=shareable,
        footer=f"Written by imitate {__version__}. Not for clinical use.",
    )


def _lead(run: RunFolder) -> Iterator[Prose]:
    dataset = run.card.get("dataset")
    if dataset:
        yield Prose(text=f"Recipe {run.card.get('recipe', '–')}, trained on {dataset['name']}.")
    names = ", ".join(each.name for each in run.evaluations)
    yield Prose(text=f"Evaluated on {names}." if names else "Not evaluated yet.")
    if run.phantom:
        text = "Phantom data: the figures say that the stages work, and nothing else."
        yield Prose(text=text, tone="note")


def _headline(run: RunFolder) -> Iterator[tuple[str, int]]:
    trained = run.card.get("trained", {})
    for name, key in (("steps", "step"), ("samples seen", "samples")):
        if key in trained:
            yield name, int(trained[key])
    if run.evaluations:
        yield "test films", sum(_films(each) for each in run.sets.values())


def _films(opened: Opened) -> int:
    return max((int(row["n"]) for row in opened.rows), default=0)


def _attention(run: RunFolder) -> Section:
    """Return what must be known before a number is read: overlaps, damage, single seeds."""
    blocks = [block for each in run.evaluations for block in _remarks(run, each)]
    calm = Prose(text="Nothing stands out.", tone="quiet")
    return Section(title="Worth a look", blocks=tuple(blocks) or (calm,))


def _remarks(run: RunFolder, opened: Opened) -> Iterator[Prose]:
    seen, document = opened.document["overlap"], opened.document
    trained = f"{opened.name} and the training set {seen['training_set']}"
    if seen["subjects"] is None:
        text = f"Overlap of {trained} is not measured: {seen['note']}."
        yield Prose(text=text, tone="note")
    elif seen["subjects"] or seen["pictures"]:
        text = f"Test films of {trained} share {{}} patients and {{}} pictures."
        counts = (seen["subjects"], seen["pictures"])
        yield Prose(text=text, counts=counts, tone="fault")
    if known := seen.get("exposure"):
        yield Prose(text=f"{opened.name}: {Exposure(**known)}.", tone="note")
    sets = [shards for shards in (run.training, opened.shards) if shards is not None]
    levels = [told for shards in sets if (told := grey_levels(shards))]
    if len(set(levels)) > 1 and not document["norm"]:
        text = f"Grey levels differ: {levels[0]} in training, {levels[1]} in {opened.name}; "
        yield Prose(text=f"{text}imitate eval --match-norm brings them nearer.", tone="note")
    if document["damaged"]:
        text = f"{opened.name}: damaged films that were left out: {{}}."
        yield Prose(text=text, counts=(len(document["damaged"]),), tone="fault")
    if not opened.statistics:
        text = f"{opened.name}: no comparisons; evaluate again with this version."
        yield Prose(text=text, tone="note")


def _evaluation(run: RunFolder, opened: Opened, *, shareable: bool) -> Section:
    """Return everything of one test set: tables, curves, comparisons, films."""
    phantom = opened.document["phantom"] and not run.phantom
    blocks: list[Block] = [
        Prose(
            text=f"Test split, protocol {opened.document['protocol']}. A label with fewer than 5 "
            "positives or negatives is empty and not in the mean (macro). Thresholds are those of "
            "the validate split unless a line says otherwise.",
            tone="quiet",
        )
    ]
    for task in opened.tasks:
        blocks += _task(opened, task, shareable=shareable)
    blocks += [*comparison_blocks(opened), *slice_blocks(opened)]
    blocks += published_blocks(opened)
    title = f"{opened.name}, phantom (synthetic)" if phantom else opened.name
    return Section(title=title, blocks=tuple(blocks))


def _task(opened: Opened, task: str, *, shareable: bool) -> Iterator[Block]:
    """Yield all of one task: its numbers, its curves, and its films."""
    yield Heading(title=task)
    yield from task_blocks(opened, task)
    yield from summary_blocks(opened, task)
    yield from prompt_blocks(opened, task)
    yield from answer_plots(opened, task, shareable=shareable)
    apart = (*label_plots(opened, task), *head_plots(opened, task))
    if plots := tuple(plot for block in apart for plot in block.plots):
        yield Plots(plots=plots)
    if not shareable:
        yield from overlay_sheets(opened, task)
        yield from wrong_blocks(opened, task)
        if task == TASK:
            yield from example_blocks(opened)


def _training(run: RunFolder) -> Section | None:
    plots = tuple(learning_plots(run.metrics))
    text = "Each point of a line is the mean of as many steps; dots were measured on validation."
    return (
        Section(title="Training", blocks=(*plots, Prose(text=text, tone="quiet")))
        if plots
        else None
    )
