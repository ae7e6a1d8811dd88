"""The report of a prepared set as one page, from its folder and, where it still lies, its archive.

Equal sets and archives give equal bytes: nothing of the run itself (its command as typed, its
time, its machine) is in the page; `card.json` holds that under `run`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...page import Fold, Page, Prose, Section, Table, write_page
from ..pixels.decoder import Decoder
from .composition import composition_remarks, composition_section, labels_section, sizes_section
from .films import films_section
from .funnel import attention_section, funnel_section, headline, lead
from .prepared import PreparedSet
from .texts import read_texts, text_remarks, texts_section
from .twins import find_twins, twin_blocks, twin_remarks

REPORT, SHAREABLE = "report.html", "report-shareable.html"


def write_report(
    folder: Path, decoder: Decoder, *, out: Path | None = None, shareable: bool = False
) -> Path:
    """Write the report of a prepared set and return its path, by default inside the set.

    A shareable page holds no picture, text or id, and no count below 10. Raises InputError or
    UsageError when `folder` is no finished prepared set.
    """
    prepared = PreparedSet.open(folder)
    path = out or folder / (SHAREABLE if shareable else REPORT)
    page = report_page(prepared, decoder, shareable=shareable)
    write_page(path, page)
    return path


def report_page(prepared: PreparedSet, decoder: Decoder, *, shareable: bool) -> Page:
    """Return the page of a set."""
    card = prepared.card
    twins, texts = find_twins(prepared), read_texts(prepared)
    found = (
        *composition_remarks(prepared),
        *text_remarks(texts),
        *twin_remarks(prepared, twins),
    )
    sections = (
        attention_section(prepared, found),
        funnel_section(prepared),
        None if shareable else films_section(prepared, decoder),
        composition_section(prepared),
        sizes_section(prepared),
        texts_section(prepared, texts),
        labels_section(prepared),
        Section(title="Films more than once", blocks=tuple(twin_blocks(prepared, twins))),
        _making(card),
    )
    phantom = card["name"].startswith("phantom")
    return Page(
        title=card["name"],
        kicker=f"Prepared set from the archive {card['dataset']} ({card['access']})"
        + (": phantom data, synthetic, no patient's" if phantom else ""),
        lead=lead(prepared),
        headline=headline(prepared),
        sections=tuple(section for section in sections if section),
        access=card["access"],
        phantom=phantom,
        shareable=shareable,
        footer=f"Written by imitate {card['versions']['imitate']}. Not for clinical use.",
    )


def _making(card: Mapping[str, Any]) -> Section:
    """Return how the set was made: command, options, versions, digests."""
    options = {**card["options"], "seed": card["seed"]}
    inputs = card["inputs"]
    digests = {
        "archive": f"{inputs['digest']} ({inputs['files']:,} files, {inputs['bytes']:,} bytes)",
        **card["files"],
    }
    return Section(
        title="How it was made",
        blocks=(
            Prose(text=command_of(card), tone="code"),
            Prose(
                text="The command as it was typed, the time it took and the machine are in "
                "card.json, under run.",
                tone="quiet",
            ),
            _fold("All options", {name: _told(value) for name, value in sorted(options.items())}),
            _fold("Digests (BLAKE3)", digests),
            _fold("Versions", card["versions"]),
            _fold("What the archive tells", _flat(card["archive"]), private=True),
        ),
    )


def command_of(card: Mapping[str, Any]) -> str:
    """Return the command that makes such a set again: options other than their defaults, no path.

    A dataset without a command of its own came from a table.
    """
    import typer.main

    from ..commands import app

    commands: Any = getattr(typer.main.get_command(app), "commands", {})
    known = card["dataset"] in commands
    command = commands[card["dataset"] if known else "table"]
    wanted = {**card["options"], "seed": card["seed"], "dataset": card["dataset"]}
    words = ["imitate", "prep", command.name, "SRC" if known else "TABLE"]
    for option in command.params:
        flag = option.opts[0]
        value = wanted.get(flag.removeprefix("--").replace("-", "_"))
        if option.param_type_name != "option" or value in (None, False, option.default):
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [flag] if option.is_flag else [flag, "PATH" if each is True else str(each)]
    return shlex.join(words)


def _fold(summary: str, values: Mapping[str, Any], *, private: bool = False) -> Fold:
    rows = tuple((name, str(value)) for name, value in values.items())
    return Fold(summary=summary, blocks=(Table(columns=("", ""), rows=rows),), private=private)


def _told(value: object) -> str:
    if value is None:
        return "–"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts with their paths as names."""
    found: dict[str, str] = {}
    for name, value in sorted(facts.items()):
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _told(value)
    return found
