"""How a command prepares its set: from options to a job, from an outcome to what is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...contract import REASONS, Exit, Folders, Stopped
from ...files import digest_of, safe_name
from ...options import FaultBudget
from ..archives.chexpert import list_chexpert
from ..archives.covidx import list_covidx
from ..archives.loose import list_images
from ..archives.mimic import list_mimic
from ..archives.nih import list_nih
from ..archives.object_cxr import list_object_cxr
from ..archives.openi import list_openi
from ..archives.rsna import list_rsna
from ..archives.siim import list_siim
from ..archives.table import list_table
from ..download.checksums import Checksums, read_checksums
from ..names import hide, name_key, write_map
from ..pixels.png import PixelOptions
from ..policy import TextPolicy, ViewPolicy, one_of
from ..protocols.lists import read_lists
from ..record import Listing
from .audit import say_audit
from .chunk import Assignment
from .closing import Outcome, say_outcome, say_plan
from .plan import Effort, Job, Options, Plan, Wish, beside, pick, with_checksums
from .run import prepare


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


LISTERS: Mapping[str, Callable[..., Listing]] = {
    "rsna": list_rsna,
    "covidx": list_covidx,
    "nih": list_nih,
    "siim": list_siim,
    "object-cxr": list_object_cxr,
}
OWN_OPTIONS = ("mapping", "classes", "split_lists")  # those that not every archive takes


def prepare_evaluation(dataset: str, source: Path, options: Options) -> None:
    """Carry out `imitate prep` for an archive that encoders are evaluated on."""
    protocol = options["protocol"]
    own = {name: options[name] for name in OWN_OPTIONS if name in options}
    pixels = pick(PixelOptions, options)
    listing = LISTERS[dataset](
        source, protocol=protocol, seed=options["seed"], skip=_ours(options), **own
    )
    told = {name: value is not None if name == "mapping" else value for name, value in own.items()}
    if lists := own.get("split_lists"):
        told["split_lists"] = digest_of(read_lists(lists))
    name = listing.dataset if protocol == "clean" else f"{listing.dataset}-{protocol}"
    wish = Wish(pixels=pixels, more={"protocol": protocol, **told})
    carry_out(listing, wish, options, default_name=name)


def prepare_chexpert(source: Path, options: Options) -> None:
    """Carry out `imitate prep chexpert`; text counts where reports are there."""
    protocol = options["protocol"]
    pixels, text = pick(PixelOptions, options), pick(TextPolicy, options)
    ViewPolicy.parse(options["views"])
    listing = list_chexpert(
        source,
        protocol=protocol,
        reports=options["reports"],
        seed=options["seed"],
        skip=_ours(options),
    )
    name = listing.dataset if protocol == "clean" else f"{listing.dataset}-{protocol}"
    wish = Wish(
        pixels=pixels,
        views=options["views"],
        text=text if listing.facts["reports"] else None,
        more={"protocol": protocol},
    )
    carry_out(listing, wish, options, default_name=name)


def prepare_table(table: Path, options: Options) -> None:
    """Carry out `imitate prep table`; without a column of views all are kept."""
    pixels, text = pick(PixelOptions, options), pick(TextPolicy, options)
    ViewPolicy.parse(options["views"] or "frontal")
    maps = options["maps"] or []
    listing = list_table(
        table,
        seed=options["seed"],
        maps=maps,
        labels=options["labels"],
        images=options["images"],
        dataset=options["dataset"],
    )
    wish = Wish(
        pixels=pixels,
        views=options["views"] or ("frontal" if listing.facts["views_known"] else "all"),
        text=text if listing.facts["text"] else None,
        more={"map": sorted(maps), "labels": options["labels"], "key": options["key"]},
    )
    one_of("--key", options["key"], ("hash", "path"))
    if options["key"] == "path":
        carry_out(listing, wish, options, default_name=listing.dataset)
        return
    hidden = hide(listing, name_key(Folders(options["root"]).data))
    carry_out(hidden, wish, options, default_name=listing.dataset, before=listing)


def prepare_images(paths: list[Path], options: Options) -> None:
    """Carry out `imitate prep images`."""
    one_of("--key", options["key"], ("path", "hash"))
    pixels = pick(PixelOptions, options)
    listing = list_images(paths, skip=[options["out"]])
    carry_out(listing, Wish(pixels=pixels, more={"key": options["key"]}), options)


def check(options: Options) -> FaultBudget:
    """Return the fault budget; UsageError for options that would fail only after the work."""
    one_of("--progress", options["progress"], ("auto", "bar", "lines", "none"))
    return FaultBudget.parse(options["max_failures"] or "10%")


def _ours(options: Options) -> list[Path]:
    """Return the folders below the root that no archive owns."""
    folders = Folders(options["root"])
    return [folders.prepared("x").parent, folders.shards("x").parent, folders.run("x").parent]


def carry_out(
    listing: Listing,
    wish: Wish,
    options: Options,
    *,
    default_name: str | None = None,
    before: Listing | None = None,
) -> None:
    """Prepare a listing and say the result; TooManyFaults once everything else is done.

    Without a default name the result goes to `out` and is pictures alone. `before` is the listing
    with the names that were hidden: a file of the set tells which is which.
    """
    budget = check(options)
    sums = read_checksums(_places(listing, options)) if options.get("checksums") else None
    listing = with_checksums(listing, sums) if sums else listing
    out = options["out"] if default_name is None else _set_folder(options, default_name)
    out = out if options["resume"] else beside(out)
    job = _job(listing, wish, options, out=out, is_set=default_name is not None, sums=sums)
    if options["dry_run"]:
        say_plan(job, as_json=options["as_json"])
        return
    if options["check"]:
        say_audit(job, progress=_progress(options), as_json=options["as_json"])
        return
    outcome = _prepare(job, options)
    if before is not None:
        write_map(out, before, listing)
    say_outcome(outcome, as_json=options["as_json"], is_set=job.with_manifest)
    budget.check(outcome.faults, outcome.present)


def _job(
    listing: Listing,
    wish: Wish,
    options: Options,
    *,
    out: Path,
    is_set: bool,
    sums: Checksums | None,
) -> Job:
    more = {"limit": options["limit"], "checksums": sums is not None}
    plan = Plan(listing=listing, options={**wish.as_json(), **more}, seed=options.get("seed"))
    assignment = Assignment(
        dataset=listing.dataset,
        access=listing.access,
        out=out,
        pixels=wish.pixels,
        views=ViewPolicy.parse(wish.views),
        text=wish.text,
        reports=listing.reports,
        names="path" if is_set else options["key"],
    )
    return Job(
        plan=plan,
        assignment=assignment,
        limit=options["limit"],
        with_manifest=is_set,
        expected=sums.expected if sums else {},
        retry=_retried(options["retry"]),
    )


def _places(listing: Listing, options: Options) -> list[Path]:
    """Return the folders whose SHA256SUMS count: of the pictures, the reports and the tables."""
    given = [options.get(name) for name in ("reports", "tables")]
    roots = [record.root for record in listing.records]
    return list(dict.fromkeys([*roots, *(path for path in given if path and path.is_dir())]))


def _retried(codes: list[str] | None) -> frozenset[str]:
    """Return the reasons whose rejects are done again; `faults` stands for all faults."""
    faults = [code for code, reason in REASONS.items() if reason.kind == "fault"]
    for code in codes or []:
        one_of("--retry", code, ("faults", *REASONS))
    named = {code for code in codes or [] if code != "faults"}
    return frozenset(named | set(faults if "faults" in (codes or []) else []))


def _set_folder(options: Options, default_name: str) -> Path:
    folders: Folders = Folders(options["root"])
    return folders.prepared(safe_name(options["name"] or default_name))


def _progress(options: Options) -> str:
    return "none" if options["quiet"] else str(options["progress"])


def _prepare(job: Job, options: Options) -> Outcome:
    effort = Effort(
        workers=options["workers"],
        scheduler=options["scheduler"],
        progress=_progress(options),
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
