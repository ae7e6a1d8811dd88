"""What the stages hand each other: errors, exit codes, reasons, folders, keys and table schemas.

The exception tree (one base to catch; each class has its exit code):

    ImitateError                70  a defect of ours, if raised bare
    ├── UsageError               2  an option or argument that cannot be
    │   └── ConfigError          2  a recipe or config file that cannot be; lists every problem
    ├── InputError               3  input that is missing, corrupt, or all of it faulty
    ├── TooManyFaults            1  finished, but more faults than --max-failures allows
    └── Stopped                130  stopped by Ctrl-C (143 by SIGTERM), after saving
    Reject                       -  one file's or report's verdict; never ends a run

Nothing here imports more than the standard library, so `imitate --help` stays light.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

SCHEMA_VERSION = 1
ROW_GROUP = 65_536  # rows a Parquet row group; other sizes change the bytes of a table
SPLITS = ("train", "validate", "test")

Access = Literal["open", "credentialed"]


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    FAULTS = 1
    USAGE = 2
    INPUT = 3
    DEFECT = 70
    INTERRUPTED = 130
    TERMINATED = 143


class ImitateError(Exception):
    """An error a user can act on: what happened, where, and what to do next."""

    code: Exit = Exit.DEFECT

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.todo = what, where, todo

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}\n  {self.todo}" if self.todo else text


class UsageError(ImitateError):
    """An option or argument that cannot be."""

    code = Exit.USAGE


class ConfigError(UsageError):
    """A configuration with problems, all of them at once."""

    def __init__(self, problems: Sequence[str], *, where: str = "", todo: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(self.problems), where=where, todo=todo)


class InputError(ImitateError):
    """Input that is missing, corrupt, or all of it faulty."""

    code = Exit.INPUT


class TooManyFaults(ImitateError):
    """The work is done, but with more faults than --max-failures allows."""

    code = Exit.FAULTS


class Stopped(ImitateError):
    """The work was stopped by a signal after its state was saved."""

    code = Exit.INTERRUPTED

    def __init__(self, what: str, *, todo: str = "", terminated: bool = False) -> None:
        super().__init__(what, todo=todo)
        if terminated:
            self.code = Exit.TERMINATED


@dataclass(frozen=True)
class Reason:
    """Why a row was left out: `filter` was asked for, `fault` is damaged or refused."""

    code: str
    kind: Literal["filter", "fault"]
    text: str


REASONS: dict[str, Reason] = {
    reason.code: reason
    for reason in (
        Reason("view_not_selected", "filter", "the view is not among --views"),
        Reason("no_report", "filter", "the study has no report at all"),
        Reason("no_text", "filter", "the report has no section that --sections asks for"),
        Reason("too_short", "filter", "the report has fewer tokens than --min-tokens"),
        Reason("unlabelled", "filter", "the archive publishes no label for this picture"),
        Reason("not_a_picture", "filter", "a file of another kind, such as a table or a text"),
        Reason("report_missing", "fault", "the archive lists a report that is not there"),
        Reason("report_unreadable", "fault", "the report cannot be decoded or is over 64 kB"),
        Reason("file_missing", "fault", "the archive lists a picture that is not there"),
        Reason("file_not_listed", "fault", "the picture is in no record or metadata list"),
        Reason("split_missing", "fault", "the split list does not name this picture"),
        Reason("file_empty", "fault", "the file has no bytes"),
        Reason("file_too_large", "fault", "the file is over 256 MiB"),
        Reason("link_outside", "fault", "the file is a link that leaves the archive"),
        Reason("not_dicom", "fault", "no DICM mark at byte 128; never read by force"),
        Reason("header_unreadable", "fault", "the DICOM or picture header cannot be read"),
        Reason("inflate_too_large", "fault", "a deflated file grows over the cap"),
        Reason("no_pixels", "fault", "the DICOM file carries no pixel data"),
        Reason("syntax_unsupported", "fault", "no decoder for this transfer syntax"),
        Reason("multi_frame", "fault", "more than one frame"),
        Reason("bad_dimensions", "fault", "rows or columns missing or outside 16..16384"),
        Reason("bad_bits", "fault", "bit depth, sign or samples a pixel not supported"),
        Reason("modality_refused", "fault", "not CR, DX, DR, RG or SC; see --any-modality"),
        Reason("burned_in", "fault", "marked as carrying burned-in text; --allow-burned-in"),
        Reason("for_processing", "fault", "raw detector data, not meant to be looked at"),
        Reason("truncated", "fault", "the pixel data ends before it should"),
        Reason("stream_mismatch", "fault", "the compressed stream contradicts its header"),
        Reason("decode_failed", "fault", "the decoder refused the pixel data"),
        Reason("decoder_timeout", "fault", "decoding took longer than the time limit"),
        Reason("decoder_crashed", "fault", "the decoding process died on this file"),
        Reason("decoder_memory", "fault", "decoding needs more memory than the cap"),
        Reason("blank_picture", "fault", "every pixel has the same value"),
        Reason("duplicate_name", "fault", "another input already has this output name"),
        Reason("sample_damaged", "fault", "the prepared picture or text no longer has its hash"),
    )
}


class Reject(Exception):
    """One file's or report's verdict: a reason code, and a detail without patient data."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(REASONS[reason].code)
        self.reason, self.detail = reason, detail


def key_of(image_id: str) -> str:
    """Return the key of an image id: other characters than [A-Za-z0-9_-] become '-'."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", image_id)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column: its name, its type (`type?` may be null), and its meaning."""

    name: str
    type: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Parquet table of the contract: its fields in order."""

    name: str
    fields: tuple[Field, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(field.name for field in self.fields)


def _table(name: str, *rows: tuple[str, str, str]) -> Table:
    return Table(name=name, fields=tuple(Field(name=n, type=t, text=d) for n, t, d in rows))


MANIFEST = _table(
    "manifest",
    ("key", "string", "image id with characters outside [A-Za-z0-9_-] replaced by '-'; unique"),
    ("dataset", "string", "name of the archive"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("study_id", "string?", "study, null when the archive does not tell"),
    ("image_id", "string", "the archive's own id of the image"),
    ("view", "string?", "AP, PA, LATERAL, … or null"),
    (
        "view_source",
        "string",
        "origin of the view: metadata, procedure, table, header, none",
    ),
    ("split", "string", "train, validate or test"),
    ("image", "string", "path of the PNG below the prepared set"),
    ("height", "int32", "rows of the PNG"),
    ("width", "int32", "columns of the PNG"),
    ("bits", "int32", "bits a pixel of the PNG, 8 or 16"),
    ("source", "string", "path of the original below the archive"),
    ("source_height", "int32", "rows of the original, after orientation"),
    ("source_width", "int32", "columns of the original, after orientation"),
    ("orientation", "int32", "EXIF orientation 1-8, applied first; 1 for DICOM"),
    ("scale_x", "float64", "x_out = x_src * scale_x + offset_x"),
    ("scale_y", "float64", "y_out = y_src * scale_y + offset_y"),
    ("offset_x", "float64", "padding on the left in output pixels; negative is a crop"),
    ("offset_y", "float64", "padding on top in output pixels; negative is a crop"),
    ("norm", "string", "how grey levels were made: mimic, window, minmax, dicom, none"),
    ("png_blake3", "string", "BLAKE3 of the PNG file, hex"),
    ("pixel_blake3", "string", "BLAKE3 of the decoded pixels in row order, hex"),
    ("findings", "string", "Findings; empty when absent"),
    ("impression", "string", "Impression; empty when absent"),
    ("sections", "map<string,string>", "every section by name, raw text"),
    ("sentences", "map<string,list<string>>", "sentences of findings and impression"),
    ("section_source", "string", "header, combined, last_paragraph, override or none"),
    ("labels", "map<string,float64>", "1 present, 0 absent, -1 uncertain; missing = unlabelled"),
    ("label_source", "string?", "who made the labels, null without labels"),
    ("boxes", "list<box>", "x, y, w, h, label in output pixels"),
    ("mask", "string?", "path of the mask PNG below the prepared set"),
)

REJECTS = _table(
    "rejects",
    ("source", "string", "path of the original below the archive"),
    ("image_id", "string?", "the archive's own id of the image"),
    ("study_id", "string?", "study, where known"),
    ("stage", "string", "where it was rejected: archive, reports, pixels, shard"),
    ("reason", "string", "reason code"),
    ("detail", "string", "more, without patient data"),
)

SECTIONS = _table(
    "sections",
    ("report_id", "string", "file name without ending, or the table's id"),
    ("findings", "string", "Findings; empty when absent"),
    ("impression", "string", "Impression; empty when absent"),
    ("sections", "map<string,string>", "every section by name, raw text"),
    ("spans", "map<string,list<int32>>", "start, end, start, end … of each section's text"),
    ("section_source", "string", "header, combined, last_paragraph, override or none"),
)

SHARD_MANIFEST = _table(
    "shard_manifest",
    ("ordinal", "uint32", "position of the sample in the dataset"),
    ("key", "string", "key of the sample, the member names' stem"),
    ("dataset", "string", "name of the archive"),
    ("split", "string", "train, validate or test"),
    ("shard", "string", "file name of the shard"),
    ("offset", "uint64", "first byte of the sample's span in the shard"),
    ("size", "uint32", "bytes of the span"),
    ("codec", "string", "ending of the picture: png, or jpg for a JPEG of quality 95"),
    ("json_off", "uint32", "first byte of the JSON, relative to offset"),
    ("json_len", "uint32", "bytes of the JSON"),
    ("png_off", "uint32", "first byte of the picture, relative to offset"),
    ("png_len", "uint32", "bytes of the picture"),
    ("mask_off", "uint32?", "first byte of the mask, relative to offset"),
    ("mask_len", "uint32?", "bytes of the mask"),
    ("json_blake3", "binary16", "first 16 bytes of the JSON's BLAKE3"),
    ("png_blake3", "binary16", "first 16 bytes of the picture's BLAKE3"),
    ("mask_blake3", "binary16?", "first 16 bytes of the mask's BLAKE3"),
    ("pixel_blake3", "binary16", "first 16 bytes of the decoded pixels' BLAKE3"),
    ("width", "uint16", "columns"),
    ("height", "uint16", "rows"),
    ("bits", "uint8", "bits a pixel"),
    ("subject_id", "string?", "patient"),
    ("study_id", "string?", "study"),
    ("view", "string?", "AP, PA, LATERAL, … or null"),
    ("source", "string", "path of the original below the archive"),
    ("n_findings", "uint16", "words of the Findings"),
    ("n_impression", "uint16", "words of the Impression"),
    ("weight", "float32", "sampling weight, 1 by default"),
    ("labels", "map<string,float64>", "1 present, 0 absent, -1 uncertain"),
)

SHARDS = _table(
    "shards",
    ("name", "string", "file name of the shard"),
    ("split", "string", "train, validate or test"),
    ("bytes", "uint64", "size of the file"),
    ("n_samples", "uint32", "samples in it"),
    ("blake3", "string", "BLAKE3 of the file, hex"),
    ("sha256", "string", "SHA-256 of the file, hex"),
)

PREDICTIONS = _table(
    "predictions",
    ("key", "string", "key of the sample"),
    ("subject_id", "string?", "patient, null when the archive does not tell"),
    ("label", "string", "name of the label"),
    ("target", "float64", "1 or 0"),
    ("score", "float64", "the encoder's score; larger means present"),
    ("encoder", "string", "run, encoder file stem, or `random` for the control"),
    ("task", "string", "zeroshot or linear"),
    ("protocol", "string", "protocol of the evaluation"),
    ("fraction", "float64", "share of the training labels"),
    ("draw", "int32", "which draw of that share"),
    ("head_seed", "int32", "seed of the head's initial weights"),
)

RESULTS = _table(
    "results",
    ("dataset", "string", "prepared set that was evaluated"),
    ("task", "string", "zeroshot or linear"),
    ("protocol", "string", "protocol of the evaluation"),
    ("encoder", "string", "run, encoder file stem, or `random` for the control"),
    ("run_digest", "string", "digest of the encoder's weights"),
    ("pretrain_seed", "int32?", "seed of the pre-training, null for foreign weights"),
    ("fraction", "float64", "share of the training labels"),
    ("draw", "int32", "which draw of that share"),
    ("head_seed", "int32", "seed of the head's initial weights"),
    ("metric", "string", "auroc, auprc, accuracy, f1"),
    ("threshold_source", "string?", "where the threshold was chosen; null without a threshold"),
    ("label", "string", "name of the label, or `macro` for the mean"),
    ("value", "float64?", "the number; null when the label has too few positives or negatives"),
    ("ci_low", "float64?", "lower end of the 95 % interval"),
    ("ci_high", "float64?", "upper end of the 95 % interval"),
    ("ci_method", "string", "how the interval was made"),
    ("n", "int32", "samples"),
    ("n_pos", "int32?", "positives; null for macro"),
    ("n_subjects", "int32?", "subjects; null when the archive does not tell"),
)

TABLES = (MANIFEST, REJECTS, SECTIONS, SHARD_MANIFEST, SHARDS, PREDICTIONS, RESULTS)


@dataclass(frozen=True)
class Folders:
    """Where everything lies below `--root`."""

    root: Path

    def prepared(self, name: str) -> Path:
        """Folder of a prepared set."""
        return self.root / "data" / "prepared" / name

    def shards(self, name: str) -> Path:
        """Folder of a shard set."""
        return self.root / "data" / "shards" / name

    def run(self, name: str) -> Path:
        """Folder of a training run or of an evaluated foreign encoder."""
        return self.root / "runs" / name

    def names(self, kind: Literal["prepared", "shards", "runs"]) -> list[str]:
        """Return the names of the finished sets or runs, those with a commit mark, sorted."""
        base = self.root / "runs" if kind == "runs" else self.root / "data" / kind
        mark = {"prepared": "card.json", "shards": "dataset.json", "runs": "recipe.yaml"}[kind]
        return sorted(p.parent.name for p in base.glob(f"*/{mark}"))
