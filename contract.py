"""What the stages hand each other: errors, exit codes, reasons, folders and keys.

The exception tree (one base to catch; each class has its exit code):

    ImitateError                70  a defect of ours, if raised bare
    ├── UsageError               2  an option or argument that cannot be
    │   └── ConfigError          2  a recipe or config file that cannot be; lists every problem
    ├── InputError               3  input that is missing, corrupt, or all of it faulty
    ├── TooManyFaults            1  finished, but more faults than --max-failures allows
    └── Stopped                130  stopped by Ctrl-C (143 by SIGTERM, SIGUSR1), after saving
    Reject                       -  one file's or report's verdict; never ends a run

Nothing here imports more than the standard library, so `imitate --help` stays light.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

SPLITS = ("train", "validate", "test")

Access = Literal["open", "credentialed"]

# of a disk that is full or closed to us
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


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

    def __init__(
        self, what: str, *, todo: str = "", terminated: bool = False, warned: bool = False
    ) -> None:
        super().__init__(what, todo=todo)
        self.warned = warned  # by SIGUSR1, that the time of a batch job is nearly over
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
        Reason("not_in_protocol", "filter", "the protocol of the evaluation leaves it out"),
        Reason("report_missing", "fault", "the archive lists a report that is not there"),
        Reason("report_unreadable", "fault", "the report cannot be decoded or is over 64 kB"),
        Reason("file_missing", "fault", "the archive lists a picture that is not there"),
        Reason("file_not_listed", "fault", "the picture is in no record or metadata list"),
        Reason("split_missing", "fault", "the split list does not name this picture"),
        Reason("checksum_mismatch", "fault", "the file differs from the archive's SHA256SUMS"),
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
        Reason("mask_unreadable", "fault", "the mask cannot be read, or is of another size"),
        Reason("identity_kept", "fault", "not marked as de-identified; see --deidentified"),
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


@dataclass(frozen=True)
class Folders:
    """Where everything lies below `--root`."""

    root: Path

    @property
    def data(self) -> Path:
        """Folder of all prepared sets and shard sets."""
        return self.root / "data"

    def prepared(self, name: str) -> Path:
        """Folder of a prepared set."""
        return self.data / "prepared" / name

    def shards(self, name: str) -> Path:
        """Folder of a shard set."""
        return self.data / "shards" / name

    def run(self, name: str) -> Path:
        """Folder of a training run or of an evaluated foreign encoder."""
        return self.root / "runs" / name

    def names(self, kind: Literal["prepared", "shards", "runs"]) -> list[str]:
        """Return the names of the finished sets or runs, those with a commit mark, sorted."""
        base = self.root / "runs" if kind == "runs" else self.root / "data" / kind
        mark = {"prepared": "card.json", "shards": "dataset.json", "runs": "recipe.yaml"}[kind]
        return sorted(p.parent.name for p in base.glob(f"*/{mark}"))
