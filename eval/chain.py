"""The run that is evaluated, and what of the test set it has already seen."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from ..contract import Access, Folders, InputError, UsageError
from ..files import read_json, safe_name
from ..shards.manifest import ShardSet
from ..shards.order import Ordinals
from ..shards.reading.remote import open_kept
from .encoders.encoder import OurModel, Source
from .encoders.exposure import TEST, Exposure, exposure_of
from .testset import TestSet

# archives whose pictures are NIH ChestX-ray14's, under the same patients
FAMILIES = {"nih": "nih", "rsna": "nih", "siim": "nih"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its folder, and what its card says of it and of its training set."""

    name: str
    folder: Path
    seed: int
    access: Access
    finished: str
    training_set: str
    training_digest: str


def choose_run(root: Path, name: str | None) -> Run:
    """Return the run of that name, or the finished run that was finished last.

    Raises InputError when there is none, or when the named one is not finished.
    """
    folders = Folders(root)
    if name is not None:
        run = _read(folders.run(safe_name(name)))
        if run is None:
            raise InputError(
                f"there is no finished run {name}",
                where=str(folders.run(name)),
                todo="finish it with `imitate train`, or leave --run out for the newest one",
            )
        return run
    found = [run for each in folders.names("runs") if (run := _read(folders.run(each)))]
    if not found:
        raise InputError(
            "there is no finished run",
            where=str(root / "runs"),
            todo="train one with `imitate train`, or name weights with --encoder PATH",
        )
    return max(found, key=lambda run: (run.finished, run.name))


def _read(folder: Path) -> Run | None:
    if not (folder / "recipe.yaml").is_file() or not (folder / "model").is_dir():
        return None
    card = read_json(folder / "card.json")
    if not card.get("finished"):
        return None
    try:
        return Run(
            name=folder.name,
            folder=folder,
            seed=int(card["seed"]),
            access="open" if card["access"] == "open" else "credentialed",
            finished=str(card["run"]["finished"]),
            training_set=str(card["dataset"]["name"]),
            training_digest=str(card["dataset"]["digest"]),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError("the card is damaged", where=str(folder / "card.json")) from None


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How much of a test split a training split holds; None where it cannot be measured."""

    training_set: str
    subjects: int | None = None
    pictures: int | None = None
    note: str = ""
    exposure: Exposure | None = None

    def check(self) -> None:
        """Raise UsageError under the protocol `clean` when test samples were trained on.

        Also when a public encoder is known to have seen them, the one that training began with
        included.
        """
        if self.subjects or self.pictures or (self.exposure and self.exposure.seen == TEST):
            raise UsageError(
                f"{self}; the protocol clean refuses that",
                todo="evaluate on another set, or train on one whose subjects are not in this test",
            )

    def __str__(self) -> str:
        known = f"; {self.exposure}" if self.exposure else ""
        if self.subjects is None:
            what = f"overlap with the training set {self.training_set} not measured"
            return f"{what}: {self.note}{known}"
        return (
            f"overlap of the test split with the training set {self.training_set}: "
            f"{self.subjects} subjects, {self.pictures} pictures{self.note}{known}"
        )


def foreign_overlap(tests: TestSet, source: Source) -> Overlap:
    """Return what is known of weights from elsewhere, by their name (`exposure.yaml`)."""
    known = None if isinstance(source, OurModel) else _exposure(tests, source.name)
    note = "weights from elsewhere do not tell"
    return Overlap(training_set=source.name, note=note, exposure=known)


def _exposure(tests: TestSet, name: str) -> Exposure | None:
    """Return what the public encoder of this name has seen of the set's archive, if it is real."""
    return None if tests.phantom else exposure_of(name, tests.archive)


def overlap(tests: TestSet, run: Run, root: Path) -> Overlap:
    """Intersect what the run was trained on with the test split.

    Subjects are compared within an archive and its relatives only, since other archives number
    theirs on their own. Pictures are compared by the BLAKE3 of their pixels.
    """
    name, begun = run.training_set, _exposure(tests, _initial_weights(run))
    try:
        training = _training(root, run)
    except InputError:
        return Overlap(training_set=name, note="its shards are not here", exposure=begun)
    if training.digest != run.training_digest:
        note = "its shards are of other content now"
        return Overlap(training_set=name, note=note, exposure=begun)
    learned, tested = training.rows("train"), tests.films["test"]
    subjects = _people(training, learned) & _people(tests.shards, tested)
    seen = {bytes(value) for value in np.asarray(training.column("pixel_blake3"))[learned]}
    pixels = np.asarray(tests.shards.column("pixel_blake3"))[tested]
    pictures = sum(bytes(value) in seen for value in pixels)
    lossy = "jpg" in {*training.column("codec"), *tests.shards.column("codec")}
    return Overlap(
        training_set=name,
        subjects=len(subjects),
        pictures=pictures,
        note=("; lossy pictures equal those of the other set only by chance" if lossy else "")
        + _kinship((training, learned), (tests.shards, tested)),
        exposure=begun,
    )


def _initial_weights(run: Run) -> str:
    """Return the name of the weights that training began with; empty when they were drawn."""
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8"))
    model = recipe.get("model") or {}
    return Path((model.get("backbone") or {}).get("weights") or "").name


def _kinship(*parts: tuple[ShardSet, Ordinals]) -> str:
    """Return a remark when both parts hold pictures of one archive, some of unknown patients."""
    families: list[set[str]] = []
    strangers = False
    for shards, rows in parts:
        archives, subjects = shards.column("dataset"), shards.column("subject_id")
        families.append({FAMILIES.get(str(archives[i]), str(archives[i])) for i in rows})
        strangers |= any(subjects[i] is None for i in rows)
    both = ", ".join(sorted(set.intersection(*families)))
    return f"; both hold pictures of {both}, some of unknown patients" if both and strangers else ""


def _training(root: Path, run: Run) -> ShardSet:
    """Return the run's training set: the tables kept of one elsewhere, else the local shards."""
    with contextlib.suppress(InputError):
        return open_kept(root, run.training_digest)
    return ShardSet.open(Folders(root).shards(run.training_set))


def _people(shards: ShardSet, rows: Ordinals) -> set[tuple[str, str]]:
    archives, subjects = shards.column("dataset"), shards.column("subject_id")
    pairs = [(str(archives[i]), subjects[i]) for i in rows]
    return {(FAMILIES.get(archive, archive), str(s)) for archive, s in pairs if s is not None}


@dataclass(frozen=True, kw_only=True)
class NormDifference:
    """How the grey levels of a run's training pictures, and of a test set's, were made."""

    training_set: str
    trained: str
    tested: str

    def __str__(self) -> str:
        return (
            f"grey levels differ: {self.training_set} was prepared with --norm {self.trained}, "
            f"the test set with {self.tested}"
        )


def norm_difference(tests: TestSet, run: Run, root: Path) -> NormDifference | None:
    """Return how grey levels differ between what the run was trained on and the test set.

    None where they do not, or where it is not known.
    """
    with contextlib.suppress(InputError):
        training = _training(root, run)
        trained, tested = (_norms(shards) for shards in (training, tests.shards))
        if trained and tested and trained != tested:
            return NormDifference(training_set=training.name, trained=trained, tested=tested)
    return None


def _norms(shards: ShardSet) -> str:
    return ", ".join(sorted(shards.card.get("prep", {}).get("counts", {}).get("norm", {})))
