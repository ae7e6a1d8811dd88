"""A protocol of evaluation for one archive: its split, its targets, and what it is known for.

The rules lie in one YAML file a protocol: `clean` (disjoint by subject, the default), `paper` (the
sizes of the published tables), `mgca` (what MGCA's published code yields), `benchx` (BenchX).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ...contract import SPLITS, InputError, UsageError
from ...files import blake3_hex
from .lists import read_lists
from .rules import Draft, Pictures, Rule, draw

PROTOCOLS = ("clean", "paper", "mgca", "benchx")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of one protocol for one archive, as its YAML file tells them.

    `digest` is the BLAKE3 of the YAML file; `sizes` are published numbers of pictures, counted
    among the ids that `counted` matches; `policy` makes the targets; `fractions` says how a part
    of train is drawn; `known` are sentences about its leakage; `lists` is the folder of published
    split lists that takes the place of the rules.
    """

    dataset: str
    name: str
    digest: str
    source: str
    rules: tuple[Rule, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    counted: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    fractions: Mapping[str, Any] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    lists: Path | None = None

    def split(
        self,
        ids: Sequence[str],
        *,
        subjects: Mapping[str, str],
        official: Mapping[str, str],
        seed: int,
        labels: Mapping[str, Mapping[str, float]] | None = None,
    ) -> dict[str, str]:
        """Return the split of every image that the protocol takes: train, validate or test.

        `ids` are all labelled images in the order of the archive's table, because published code
        often draws by position (siim under mgca: one id a row, several for some pictures).
        `subjects` are the patients where known, `official` the archive's own split where it
        publishes one, under its own name: CheXpert's valid and Object-CXR's dev are `validate`.
        `labels`, as the archive says them, are needed where a protocol draws by them (rsna
        benchx, chexpert mgca).

        An id missing in the result is left out by the protocol: reject it as `not_in_protocol`.
        The result is in the order drawn. Raises InputError where a split or list is missing.
        """
        return self._draw(ids, subjects, official, seed, labels).splits()

    def repeated(
        self,
        ids: Sequence[str],
        *,
        subjects: Mapping[str, str],
        official: Mapping[str, str],
        seed: int,
        labels: Mapping[str, Mapping[str, float]] | None = None,
    ) -> frozenset[str]:
        """Return the images outside train on which the published code trains all the same.

        None but for chexpert and siim under mgca; the archive marks them in the metadata with
        `also: train`. Arguments as for `split`.
        """
        return frozenset(self._draw(ids, subjects, official, seed, labels).repeated)

    def _draw(
        self,
        ids: Sequence[str],
        subjects: Mapping[str, str],
        official: Mapping[str, str],
        seed: int,
        labels: Mapping[str, Mapping[str, float]] | None,
    ) -> Draft:
        pictures = Pictures(
            dataset=self.dataset,
            rows=ids,
            subjects=subjects,
            official=official,
            labels=labels or {},
            seed=seed,
        )
        if self.lists is None:
            return draw(self.rules, pictures)
        listed = read_lists(self.lists)
        draft = Draft(pictures=pictures, pools={})
        known = set(ids)
        draft.deal((image_id, name) for image_id, name in listed.items() if image_id in known)
        if not any(draft.pools.values()):
            raise InputError("the split lists name none of these pictures", where=str(self.lists))
        return draft

    def targets(self, labels: Mapping[str, float]) -> dict[str, float]:
        """Return the labels under the protocol's policy; without one, as the archive says them.

        A policy names the labels that count, their value when uncertain (-1), and the value of
        one that is blank.
        """
        if not self.policy:
            return dict(labels)
        uncertain: Mapping[str, float] = self.policy["uncertain"]
        found = {name: labels.get(name, self.policy["blank"]) for name in uncertain}
        return {
            name: float(uncertain[name] if value == -1 else value) for name, value in found.items()
        }

    def facts(self, splits: Mapping[str, str], *, complete: bool) -> dict[str, Any]:
        """Return what the card says: name, digest, source, published sizes and those here.

        `complete` is false where pictures that the archive lists are not there.
        """
        return {
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "lists": self.lists is not None,
            "published": dict(self.sizes),
            "here": self._sizes(splits),
            "complete": complete,
        }

    def notes(self, splits: Mapping[str, str]) -> tuple[str, ...]:
        """Return sentences: where the sizes are not as published, why, and what is known of them.

        `splits` as `split` returned them.
        """
        here = self._sizes(splits)
        differ = [
            f"{name} has {_difference(here[name], size)} published"
            for name, size in self.sizes.items()
            if here[name] != size
        ]
        return (*((self._why(differ, sum(here.values())),) if differ else ()), *self.known)

    def _why(self, differ: Sequence[str], total: int) -> str:
        what = f"sizes under {self.name}: {'; '.join(differ)}"
        complete = sum(self.sizes.values())
        if not set(SPLITS) <= self.sizes.keys() or total == complete:
            return f"{what} (its rule: {self.source})"
        return (
            f"{what}; the tables here name {_difference(total, complete)} of the complete "
            f"{self.dataset}, and shares stand for numbers"
        )

    def _sizes(self, splits: Mapping[str, str]) -> dict[str, int]:
        counted = re.compile(self.counted)
        found = Counter(split for image_id, split in splits.items() if counted.search(image_id))
        return {name: found[name] for name in SPLITS}


def _difference(here: int, there: int) -> str:
    more = "more" if here > there else "fewer"
    return f"{here:,} pictures, {abs(here - there):,} {more} than the {there:,}"


def load_protocol(dataset: str, name: str, *, lists: Path | None = None) -> Protocol:
    """Return a protocol for an archive, with the split lists of `--split-lists` where given.

    Raises UsageError for a name that this archive has not, or for lists that it does not take;
    InputError when it can only be drawn from lists and there are none.
    """
    names = [other for other in PROTOCOLS if dataset in _read(other)[0]["datasets"]]
    if name not in names:
        raise UsageError(f"--protocol {name!r} is not one of {', '.join(names)} for {dataset}")
    whole, digest = _read(name)
    facts = whole["datasets"][dataset]
    where = whole.get("lists", "").format(folder=facts.get("folder"))
    if lists is not None and "folder" not in facts:
        raise UsageError(f"--split-lists has no meaning for {dataset} with --protocol {name}")
    if lists is None and "split" not in facts:
        raise InputError(
            f"{name} publishes its split of {dataset} as lists alone",
            todo=f"download train.txt, val.txt and test.txt from {where}, and add "
            "--split-lists FOLDER",
        )
    steps = [item for step in facts.get("split", ()) for item in step.items()]
    return Protocol(
        dataset=dataset,
        name=name,
        digest=digest,
        source=facts["source"],
        rules=tuple(Rule(kind=kind, options=options) for kind, options in steps),
        sizes=facts.get("sizes", {}),
        counted=facts.get("counted", ""),
        policy=facts.get("labels", {}),
        fractions=facts.get("fractions", whole.get("fractions", {})),
        known=tuple(facts.get("notes", ())),
        lists=lists,
    )


@cache
def _read(name: str) -> tuple[dict[str, Any], str]:
    data = Path(__file__).with_name(f"{name}.yaml").read_bytes()
    return yaml.safe_load(data), blake3_hex(data)
