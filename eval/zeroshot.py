"""Zero-shot classification by prompt pairs: how a study with and without a finding is worded.

The prompts of an archive are a YAML file in `prompts/`, one pair of lists a label. A label without
prompts there gets the templates `{label}` and `no {label}`. The score is the softmax of the two
cosine similarities (the pair rule of CheXzero, Tiu et al., 2022): prompt embeddings are normalized,
averaged over a list, normalized again. The softmax has no temperature, so scores lie near 0.5.

Axes: N images, L labels, P prompts, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml

from ..contract import ImitateError
from .metrics import Floats, Part, Scored, thresholds_of

Embed = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Prompts of one label: what is written when it is present, and when it is absent."""

    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    source: str


def prompt_files() -> list[str]:
    """Return the archives that have prompts of their own."""
    folder = resources.files(__package__).joinpath("prompts")
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_prompts(name: str) -> dict[str, Pair]:
    """Read the pairs of `prompts/<name>.yaml` by label."""
    file = resources.files(__package__).joinpath("prompts", f"{name}.yaml")
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    pairs = {}
    for label, lists in tree.items():
        if set(lists) != {"positive", "negative"} or not all(lists.values()):
            raise ImitateError(
                "prompts need a list `positive` and a list `negative`", where=f"{name}: {label}"
            )
        pairs[label] = Pair(
            label=label,
            positive=tuple(lists["positive"]),
            negative=tuple(lists["negative"]),
            source=f"prompts/{name}.yaml",
        )
    return pairs


def prompts_for(names: Sequence[str], labels: Sequence[str]) -> tuple[Pair, ...]:
    """Return a pair for each label, from the first of `names` that has a prompt file.

    `names` are what the set may be called, the most particular first.
    """
    files = prompt_files()
    known = next((read_prompts(name) for name in names if name in files), {})
    return tuple(known.get(label) or _template(label) for label in labels)


def _template(label: str) -> Pair:
    text = label.replace("_", " ").lower()
    return Pair(label=label, positive=(text,), negative=(f"no {text}",), source="template")


def pair_scores(image_ND: Floats, positive_LD: Floats, negative_LD: Floats) -> Floats:
    """Return the softmax share [N, L] of the positive prompt; all rows are unit vectors."""
    margin_NL = image_ND @ (positive_LD - negative_LD).T
    share_NL: Floats = 1 / (1 + np.exp(-margin_NL))
    return share_NL


def embed_pairs(embed: Embed, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Return the ensembles of positive and of negative prompts [L, D], unit rows."""
    texts = sorted({text for pair in pairs for text in pair.positive + pair.negative})
    row = {text: i for i, text in enumerate(texts)}
    text_PD = unit(embed(texts))
    positive_LD, negative_LD = (
        unit(np.stack([text_PD[[row[text] for text in prompts]].mean(axis=0) for prompts in side]))
        for side in ([pair.positive for pair in pairs], [pair.negative for pair in pairs])
    )
    return positive_LD, negative_LD


def unit(x_ND: Floats) -> Floats:
    """Return rows of length one, in float64; a zero row stays zero."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    unit_ND: Floats = np.divide(x_ND, length_N1, out=np.zeros_like(x_ND), where=length_N1 > 0)
    return unit_ND


def zeroshot(embed: Embed, pairs: Sequence[Pair], validate: Part, test: Part) -> Scored:
    """Score the test images; thresholds come from `validate`. Features are image embeddings."""
    ensembles = embed_pairs(embed, pairs)
    score_NL = pair_scores(unit(validate.features), *ensembles)
    return Scored(
        scores=pair_scores(unit(test.features), *ensembles),
        thresholds=thresholds_of(validate.targets, score_NL),
        skipped={},
    )
