"""The model card: README.md of a model folder, for people; a function of the run's card alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..recipes.config import leaves

Card = Mapping[str, Any]

LABELLED = {
    "text": "the reports alone",
    "labels": "labels: wherever its numbers stand beside others, they carry a star",
}


def model_card(card: Card) -> str:
    """Return the model card: what it is, where it came from, what was measured, every value."""
    lines = [
        "---",
        "library_name: imitate",
        "license: other",
        "tags: [chest-x-ray, vision-language]",
        "---",
        "",
        "# Vision-language model of chest radiographs",
        "",
        "Trained with `imitate train`; load it with `imitate.train.network.folder.load_model`.",
        "For research only; not a medical device.",
        *_restricted(card),
        "",
        "## Where it came from",
        "",
        *(f"{number}. {link}" for number, link in enumerate(_chain(card), 1)),
        "",
        "`imitate verify` on the run's folder compares every link of this chain that is there.",
        *_measured(card),
        "",
        "## Everything that the run's card says",
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in sorted(_single(card))),
    ]
    return "\n".join(lines) + "\n"


def _single(card: Card) -> Iterator[tuple[str, str | int | float]]:
    """Yield every single value under its dotted key; lists, as of keys, are left out."""
    for key, value in leaves(card):
        if isinstance(value, str | int | float):
            yield key, value


def _restricted(card: Card) -> list[str]:
    if card.get("access", "open") == "open":
        return []
    return [
        "",
        "**Derived from restricted data** (`access: credentialed`). The terms under which the data "
        "were given hold for this model too; ask there before you share it.",
    ]


def _chain(card: Card) -> Iterator[str]:
    """Yield each link between the archive and the weights that the card tells of."""
    dataset = card.get("dataset", {})
    prepared = dataset.get("prepared") or {}
    if "digest" in prepared:
        names = ", ".join(prepared.get("sets", [dataset["name"]]))
        yield f"prepared: {names}, digest `{prepared['digest']}`"
    if "digest" in dataset:
        yield f"shards: {dataset['name']}, digest `{dataset['digest']}`"
    text = card.get("text_encoder")
    if text:
        yield f"text encoder: {text['model']}, digest `{text['digest']}`"
    if "recipe_digest" in card:
        seed = f"seed {card['seed']}"
        yield f"recipe: {card['recipe']}, {seed}, digest `{card['recipe_digest']}`"
    if "supervision" in card:
        yield f"learned from {LABELLED[card['supervision']]}"
    state = card.get("model")
    if state:
        yield (
            f"weights: the {state['of']} state, after step {state['step']} "
            f"({state['samples']} samples) of run {card['name']}"
        )


def _measured(card: Card) -> list[str]:
    """Return what the validate split says of these weights."""
    measured = (card.get("validation") or {}).get("model")
    if not measured:
        return []
    rows = [f"| {name} | {value:.4g} |" for name, value in measured.items()]
    return [
        "",
        "## On the validate split",
        "",
        "Measured while training, on pictures that were not altered. It is no evaluation: where "
        "the best state was chosen, it was chosen on this split.",
        "",
        "| what | value |",
        "|---|---|",
        *rows,
    ]
