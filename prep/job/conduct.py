"""How a command prepares its set: from options to a job, from an outcome to what is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ...contract import Exit, Folders, Stopped
from ...files import safe_name
from ...options import FaultBudget, reasons_text, say
from ..archives.loose import list_images
from ..archives.mimic import list_mimic
from ..archives.openi import list_openi
from ..archives.rsna import list_rsna
from ..pixels.png import PixelOptions
from ..policy import TextPolicy, ViewPolicy, one_of
from ..record import Listing
from .card import Plan
from .chunk import Assignment
from .run import Effort, Job, Outcome, beside, closing_text, prepare

Options = Mapping[str, Any]  # a command's options by their names in Python
Policy = TypeVar("Policy", PixelOptions, TextPolicy)


def prepare_mimic(source: Path, options: Options) -> None:
    """Carry out `imitate prep mimic`."""
    pixels, text = pick(PixelOptions, options), pick(TextPolicy, options)
    ViewPolicy.parse(options["views"])
    listing = list_mimic(
        source,
        reports=options["reports"],
        tables=options["tables"],
        reports_needed=not text.keep_image_only,
        skip=_ours(options),
    )
    if pixels.norm == "auto" and listing.facts["form"] == "dicom":
        pixels = pick(PixelOptions, {**options, "norm": "mimic"})
    wish = Wish(pixels=pixels, views=options["views"], text=text)
    carry_out(listing, wish, options, default_name=listing.dataset)


def prepare_openi(source: Path, options: Options) -> None:
    """Carry out `imitate prep openi`; without known views all are kept unless asked otherwise."""
    pixels, text = pick(PixelOptions, options), pick(TextPolicy, options)
    ViewPolicy.parse(options["views"] or "frontal")
    listing = list_openi(source, seed=options["seed"], skip=_ours(options))
    views = options["views"] or ("frontal" if listing.facts["views_known"] else "all")
    wish = Wish(pixels=pixels, views=views, text=text)
    carry_out(listing, wish, options, default_name=listing.dataset)


LISTERS: Mapping[str, Callable[..., Listing]] = {"rsna": list_rsna}
OWN_OPTIONS = ("mapping", "classes")  # those that only one archive takes


def prepare_evaluation(dataset: str, source: Path, options: Options) -> None:
    """Carry out `imitate prep` for an archive that encoders are evaluated on."""
    protocol = options["protocol"]
    own = {name: options[name] for name in OWN_OPTIONS if name in options}
    pixels = pick(PixelOptions, options)
    listing = LISTERS[dataset](
        source, protocol=protocol, seed=options["seed"], skip=_ours(options), **own
    )
    told = {name: value is not None if name == "mapping" else value for name, value in own.items()}
    name = listing.dataset if protocol == "clean" else f"{listing.dataset}-{protocol}"
    wish = Wish(pixels=pixels, more={"protocol": protocol, **told})
    carry_out(listing, wish, options, default_name=name)


def prepare_images(paths: list[Path], options: Options) -> None:
    """Carry out `imitate prep images`."""
    one_of("--key", options["key"], ("path",))
    pixels = pick(PixelOptions, options)
    listing = list_images(paths, skip=[options["out"]])
    carry_out(listing, Wish(pixels=pixels, more={"key": options["key"]}), options)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user asks of the result; all of it is in the card."""

    pixels: PixelOptions
    views: str = "all"
    text: TextPolicy | None = None
    more: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the resolved options by name."""
        text = asdict(self.text) if self.text else {}
        return {**asdict(self.pixels), "views": self.views, **text, **(self.more or {})}


def pick(policy: type[Policy], options: Options) -> Policy:
    """Return a policy made of those options that are its fields; UsageError for wrong values."""
    return policy(**{f.name: options[f.name] for f in fields(policy) if f.name in options})


def check(options: Options) -> FaultBudget:
    """Return the fault budget; UsageError for options that would fail only after the work."""
    one_of("--progress", options["progress"], ("auto", "bar", "lines", "none"))
    return FaultBudget.parse(options["max_failures"] or "10%")


def _ours(options: Options) -> list[Path]:
    """Return the folders below the root that no archive owns."""
    folders = Folders(options["root"])
    return [folders.prepared("x").parent, folders.shards("x").parent, folders.run("x").parent]


def carry_out(
    listing: Listing, wish: Wish, options: Options, *, default_name: str | None = None
) -> None:
    """Prepare a listing and say the result; TooManyFaults once everything else is done.

    Without a default name the result goes to `out` and is pictures alone.
    """
    budget = check(options)
    out = options["out"] if default_name is None else _set_folder(options, default_name)
    out = out if options["resume"] else beside(out)
    limit = options["limit"]
    plan = Plan(
        listing=listing, options={**wish.as_json(), "limit": limit}, seed=options.get("seed")
    )
    assignment = Assignment(
        dataset=listing.dataset,
        access=listing.access,
        out=out,
        pixels=wish.pixels,
        views=ViewPolicy.parse(wish.views),
        text=wish.text,
        reports=listing.reports,
    )
    is_set = default_name is not None
    job = Job(plan=plan, assignment=assignment, limit=limit, with_manifest=is_set)
    if options["dry_run"]:
        _say_plan(job, as_json=options["as_json"])
        return
    outcome = _prepare(job, options)
    _say_outcome(outcome, as_json=options["as_json"], is_set=is_set)
    budget.check(outcome.faults, outcome.present)


def _set_folder(options: Options, default_name: str) -> Path:
    folders: Folders = Folders(options["root"])
    return folders.prepared(safe_name(options["name"] or default_name))


def _prepare(job: Job, options: Options) -> Outcome:
    effort = Effort(
        workers=options["workers"],
        scheduler=options["scheduler"],
        progress="none" if options["quiet"] else options["progress"],
    )
    try:
        return prepare(job, effort)
    except Stopped as stopped:
        if options["resume"]:
            raise
        raise Stopped(
            stopped.what,
            todo=f"what is done is in {job.out}; the same command with that name in place of "
            "--no-resume goes on",
            terminated=stopped.code == Exit.TERMINATED,
        ) from None


def _say_plan(job: Job, *, as_json: bool) -> None:
    known, todo = job.records()
    rejected = Counter(record.rejection.reason for record in known if record.rejection)
    result = {
        "dataset": job.plan.listing.dataset,
        "in": len(known) + len(todo),
        "to_do": len(todo),
        "rejected": dict(sorted(rejected.items())),
        "path": str(job.out),
    }
    sentence = (
        f"would prepare up to {len(todo)} of {len(known) + len(todo)} rows in {job.out}; "
        f"left out by the listing alone: {reasons_text(rejected)}"
    )
    say(result, sentence, as_json=as_json)


def _say_outcome(outcome: Outcome, *, as_json: bool, is_set: bool) -> None:
    card = outcome.card
    result = {
        "dataset": card["dataset"],
        "in": card["rows"] + sum(card["rejected"].values()),
        "out": card["rows"],
        "rejected": card["rejected"],
        "path": str(outcome.path),
        "seconds": round(outcome.seconds, 1),
    }
    text = closing_text(outcome)
    if is_set:
        text += f"\nnext: imitate shard {card['name']}"
    say(result, text, as_json=as_json)
