"""The grey-level tables of a DICOM header: modality rescale or LUT, VOI LUT or window.

Each is returned as a table over the stored values, so a picture is looked up once.
Source: DICOM PS3.3 C.11.1 (modality) and C.11.2 (VOI).

Axes: K codes, one for each value the stored bits can have.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...contract import Reject

HUGE = 1e100  # no unit of measurement; differences of larger values overflow


def modality_values(dataset: Any, stored_K: np.ndarray, *, little: bool) -> np.ndarray:
    """Return the modality value of each stored value: Modality LUT, else slope and intercept.

    `little` is the byte order of the file. Raises Reject header_unreadable for a table or a
    slope that is none.
    """
    items = dataset.get("ModalityLUTSequence")
    if items:
        table = _table(items[0], signed=bool(stored_K[0] < 0), little=little)
        if table is None:
            raise Reject("header_unreadable", "modality LUT")
        first, levels, _ = table
        return _through(stored_K, first, levels)
    slope = _first_number(dataset, "RescaleSlope", default=1.0)
    intercept = _first_number(dataset, "RescaleIntercept", default=0.0)
    values_K = stored_K * slope + intercept
    if not (np.abs(values_K) < HUGE).all():  # NaN is not smaller either
        raise Reject("header_unreadable", "modality rescale")
    return values_K


def voi_levels(dataset: Any, values_K: np.ndarray, *, little: bool) -> np.ndarray | None:
    """Return the level in 0..1 of each modality value, None without a valid VOI LUT or window.

    The LUT comes before the window, and of several the first, as viewers and pydicom do.
    """
    items = dataset.get("VOILUTSequence")
    if items:
        table = _table(items[0], signed=bool(values_K.min() < 0), little=little)
        if table is not None:
            first, levels, top = table
            return _through(values_K, first, levels) / top
    center = _first_number(dataset, "WindowCenter", default=np.nan)
    width = _first_number(dataset, "WindowWidth", default=np.nan)
    if not np.isfinite((center, width)).all():
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    return _window(values_K, center, width, function)


def _window(values_K: np.ndarray, center: float, width: float, function: str) -> np.ndarray | None:
    """Return PS3.3 C.11.2.1.2 and C.11.2.1.3 as levels in 0..1, None for an impossible width."""
    if function == "SIGMOID" and width > 0:
        exponent = (-4 * (values_K - center) / width).clip(-500, 500)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR_EXACT" and width > 0:
        return ((values_K - center) / width + 0.5).clip(0, 1)
    if function == "LINEAR" and width > 1:
        return ((values_K - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    if function == "LINEAR" and width == 1:
        return (values_K > center - 0.5).astype(np.float64)
    return None


def _through(values_K: np.ndarray, first: int, levels: np.ndarray) -> np.ndarray:
    """Look values up in a table that starts at `first`; beyond its ends its ends hold."""
    index = np.rint(values_K - first).clip(0, levels.size - 1).astype(np.int64)
    return np.asarray(levels[index])


def _table(item: Any, *, signed: bool, little: bool) -> tuple[int, np.ndarray, float] | None:
    """Return first mapped value, entries and largest possible entry of a LUT item, if valid.

    A first value above 32767 is negative where values can be (the VR of the descriptor is often
    wrong), and 0 entries mean 65536.
    """
    descriptor = _words(item.get("LUTDescriptor"), little=little)
    data = _words(item.get("LUTData"), little=little)
    if descriptor.size != 3 or not 1 <= descriptor[2] <= 16:
        return None
    entries = int(descriptor[0]) or 65536
    first = int(descriptor[1])
    if signed and first > 32767:
        first -= 65536
    if data.size * 2 == entries + entries % 2 and descriptor[2] <= 8:
        data = data.astype("<u2").view(np.uint8)  # two 8-bit entries in each word
    if data.size < entries:
        return None
    return first, data[:entries].astype(np.float64), float((1 << int(descriptor[2])) - 1)


def _words(value: Any, *, little: bool) -> np.ndarray:
    """Return an element of 16-bit words, parsed or raw, as an array of unsigned integers."""
    if value is None:
        return np.zeros(0, np.int64)
    if isinstance(value, bytes):
        whole = value[: len(value) // 2 * 2]
        return np.frombuffer(whole, "<u2" if little else ">u2").astype(np.int64)
    return np.atleast_1d(np.array(value, dtype=np.int64)) & 0xFFFF


def _first_number(dataset: Any, keyword: str, *, default: float) -> float:
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    return float(value if isinstance(value, (str, int, float)) else value[0])
