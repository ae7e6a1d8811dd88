"""A DICOM file as a film: the checks of its header, its stored pixels, its grey-level facts.

Nothing of the header leaves this module but grey-level facts and a view of a fixed list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydicom.tag import Tag

from ...contract import Reject
from .codecs.header import PixelHeader
from .elements import RAW, inflate, is_dicom, quietly, read_header, transfer_syntax
from .grey import Film
from .lut import modality_values, voi_levels
from .stored import stored_codes, to_gray

SIDES = (16, 16384)  # rows and columns of a picture
IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
SYNTAXES = frozenset(
    f"1.2.840.10008.1.2{end}"
    for end in (
        *("", ".1", ".1.99", ".2", ".5"),
        *(".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81"),
        *(".4.90", ".4.91", ".4.201", ".4.202", ".4.203"),
    )
)
MODALITIES = frozenset(("CR", "DX", "DR", "RG", "SC"))
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
VIEWS = frozenset(
    (
        *("AP", "PA", "LATERAL", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO"),
        *("RAO", "AP AXIAL", "XTABLE LATERAL", "AP LLD", "PA LLD", "AP RLD", "PA RLD"),
        *("L5 S1", "SWIMMERS"),
    )
)
WANTED = tuple(
    Tag(keyword)
    for keyword in (
        *("SOPClassUID", "Modality", "PresentationIntentType", "BurnedInAnnotation"),
        "PatientIdentityRemoved",
        *("ViewPosition", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
        *("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored"),
        *("HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
        "PresentationLUTShape",
        *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
        *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
        *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
        "SegmentedRedPaletteColorLookupTableData",
        "SegmentedGreenPaletteColorLookupTableData",
        "SegmentedBluePaletteColorLookupTableData",
    )
)


def read_dicom(
    data: memoryview,
    *,
    any_modality: bool = False,
    allow_burned_in: bool = False,
    deidentified: bool = True,
    halvings: Callable[[int, int], int] | None = None,
) -> Film:
    """Return the film of a DICOM file's bytes before normalization: codes and grey-level facts.

    Raises Reject with the reason for every file that is not one plain radiograph, and, unless the
    files are known to be `deidentified`, for one not marked so. `halvings` tells how often a
    compressed picture of that many rows and columns may be halved while it is decoded; padding,
    which must not bleed, and colour are always decoded whole. The array may be a view of `data`.
    """
    if not is_dicom(data):
        raise Reject("not_dicom")
    syntax, start = transfer_syntax(data)
    if syntax not in SYNTAXES:
        raise Reject("syntax_unsupported")
    if syntax == DEFLATED:
        data, start = inflate(data[start:], window=RAW, what="the deflated data set"), 0
    little = syntax != BIG
    with quietly("header_unreadable"):
        dataset, pixels = read_header(
            data, start, implicit=syntax == IMPLICIT, little=little, wanted=WANTED
        )
        if pixels is None:
            raise Reject("no_pixels")
        if not deidentified and _text(dataset, "PatientIdentityRemoved") != "YES":
            raise Reject("identity_kept")
        _check_kind(dataset, any_modality=any_modality, allow_burned_in=allow_burned_in)
        header = _pixel_header(dataset, syntax)
        padding = None if header.is_color else _padding(dataset, header, little=little)
        times = 0
        if halvings is not None and padding is None and not header.is_color:
            times = halvings(header.rows, header.columns)
    with quietly("decode_failed"):
        codes_HW = stored_codes(data, pixels, header, halvings=times)
        if header.is_color:
            return to_gray(codes_HW, header, dataset, view=_view(dataset))
    with quietly("header_unreadable"):
        return _film(dataset, codes_HW, header, padding, little=little)


def _check_kind(dataset: Any, *, any_modality: bool, allow_burned_in: bool) -> None:
    """Refuse what is not a finished radiograph free of burned-in text."""
    modality = _text(dataset, "Modality")
    capture = str(dataset.get("SOPClassUID") or "").startswith(SECONDARY_CAPTURE)
    accepted = modality in MODALITIES or (capture and modality in ("", "OT"))
    if not accepted and not any_modality:
        raise Reject("modality_refused")
    if _text(dataset, "BurnedInAnnotation") == "YES" and not allow_burned_in:
        raise Reject("burned_in")
    if _text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        raise Reject("for_processing")
    frames = dataset.get("NumberOfFrames")
    if frames is not None and int(frames) > 1:
        raise Reject("multi_frame")


def _pixel_header(dataset: Any, syntax: str) -> PixelHeader:
    """Return the pixel description, checked; Reject bad_dimensions or bad_bits."""
    sides = []
    for keyword in ("Rows", "Columns"):
        element = dataset.get(Tag(keyword))
        if element is None or element.VR != "US" or not isinstance(element.value, int):
            raise Reject("bad_dimensions", keyword)
        if not SIDES[0] <= element.value <= SIDES[1]:
            raise Reject("bad_dimensions", keyword)
        sides.append(element.value)
    numbers = [
        dataset.get(keyword)
        for keyword in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
    ]
    if not all(isinstance(number, int) for number in numbers):
        raise Reject("bad_bits", "an element is missing")
    header = PixelHeader(
        syntax=syntax,
        rows=sides[0],
        columns=sides[1],
        samples=numbers[0],
        allocated=numbers[1],
        stored=numbers[2],
        signed=numbers[3] == 1,
        photometric=_text(dataset, "PhotometricInterpretation"),
        planar=int(dataset.get("PlanarConfiguration") or 0),
    )
    header.check(high_bit=dataset.get("HighBit"), representation=numbers[3])
    return header


def _film(
    dataset: Any,
    codes_HW: np.ndarray,
    header: PixelHeader,
    padding: tuple[int, int] | None,
    *,
    little: bool,
) -> Film:
    """Return the film of stored codes with the grey-level facts of its header."""
    stored_K = np.arange(1 << header.stored, dtype=np.float64) + header.lowest
    values_K = modality_values(dataset, stored_K, little=little)
    monochrome1 = header.photometric == "MONOCHROME1"
    return Film(
        codes=codes_HW,
        bits=header.stored,
        lowest=header.lowest,
        values=values_K,
        shown=voi_levels(dataset, values_K, little=little),
        monochrome1=monochrome1,
        inverted=monochrome1 or _text(dataset, "PresentationLUTShape") == "INVERSE",
        padding=padding,
        view=_view(dataset),
        source=(header.rows, header.columns),
    )


def _padding(dataset: Any, header: PixelHeader, *, little: bool) -> tuple[int, int] | None:
    """Return the first and last code of padding, None without any that the bits can hold."""
    codes = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = dataset.get(keyword)
        if isinstance(value, bytes):  # the VR is ambiguous in implicit files
            value = int.from_bytes(value[:2], "little" if little else "big")
        if isinstance(value, int):
            codes.append(header.code_of(value))
    if not codes:
        return None
    first, last = max(min(codes), 0), min(max(codes), (1 << header.stored) - 1)
    return (first, last) if first <= last else None


def _view(dataset: Any) -> str | None:
    view = _text(dataset, "ViewPosition")
    return view if view in VIEWS else None


def _text(dataset: Any, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()
