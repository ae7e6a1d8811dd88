"""DICOM to PNG: one 2500 x 3056 film of 12 bits, uncompressed, to 512 px, against four others.

Ratios of CPU medians, all measured in turns within one run. The film is synthetic. The others are
re-statements from their descriptions:

* naive: pydicom, float64, skimage's anti-aliased resize, PIL. skimage is not a dependency; its
  resize is a Gaussian filter and a linear zoom of scipy.ndimage, which are called here directly.
* published: the official MIMIC-CXR to JPG conversion (quality 95), then that JPG read by PIL, cut
  to its non-zero rows and columns, scaled to 256 and resized linearly without anti-aliasing.
* MGCA's reader: pydicom, convertScaleAbs by the maximum, area resize, square padding, PNG.
* DCMTK's `dcmj2pnm`, a process a file: min-max window, 512 rows, PNG. Its CPU time is the child's,
  start and dictionary included. Not judged where it is not installed.
"""

import math
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from scipy import ndimage

from imitate.prep.pixels.picture import PixelOptions, convert

ROWS, COLUMNS, SIZE = 3056, 2500, 512
ROUNDS = 7
TARGETS = {  # design.md 11: how many times slower the others are to be
    "window": {"naive": 20.0, "published": 12.0, "mgca": 2.0, "dcmtk": 4.0},
    "mimic": {"naive": 15.0, "published": 12.0, "mgca": 1.5, "dcmtk": 3.0},
}
NAMES = {
    "naive": "naive pydicom + float64 + skimage-like resize + PIL",
    "published": "published two-step flow over JPG",
    "mgca": "MGCA's reader",
    "dcmtk": "DCMTK as a process per file",
}


def synthetic_film(path: Path) -> None:
    """Write a smooth film with noise, 12 bits in 16, with a window."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS] / SIZE
    level = 2000 + 900 * np.sin(rows) + 700 * np.cos(1.7 * columns + rows)
    level += np.random.default_rng(0).normal(0, 40, level.shape)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "2.25.1"
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.WindowCenter, dataset.WindowWidth = "2048", "3000"
    pixels = level.clip(1, 4095).astype(np.uint16)
    dataset.set_pixel_data(pixels, "MONOCHROME2", 12, generate_instance_uid=False)
    dcmwrite(path, dataset, enforce_file_format=True)


def naive(path: Path) -> bytes:
    """Return the PNG of the script that everybody writes first."""
    image = dcmread(path).pixel_array.astype(np.float64)
    image = (image - image.min()) / (image.max() - image.min())
    factor = ROWS / SIZE
    smooth = ndimage.gaussian_filter(image, (factor - 1) / 2, mode="mirror")
    small = ndimage.zoom(smooth, 1 / factor, order=1, mode="mirror", grid_mode=True)
    return pil_png((small * 255).astype(np.uint8))


def published(path: Path) -> np.ndarray:
    """Return the array of the published flow; its saving is not counted."""
    image = dcmread(path).pixel_array.astype(np.float64)
    image = image - image.min()
    image = image / image.max()
    gray = cv2.equalizeHist((image * 255).astype(np.uint8))
    jpg = bytes(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    read = np.array(Image.open(BytesIO(jpg)))
    read = read[~np.all(read == 0, axis=1)]
    read = read[:, ~np.all(read == 0, axis=0)].astype(np.float64)
    scaled = (read - read.min()) / (read.max() - read.min()) * 256
    zoom = (SIZE / scaled.shape[0], SIZE / scaled.shape[1])
    small: np.ndarray = ndimage.zoom(scaled, zoom, order=1, mode="mirror", grid_mode=True)
    return small.astype(np.uint8)


def mgca(path: Path) -> bytes:
    """Return the PNG of the other reader of the field, in OpenCV."""
    stored = dcmread(path).pixel_array
    image = cv2.convertScaleAbs(stored, alpha=255.0 / stored.max())
    width = int(COLUMNS * SIZE / ROWS)
    small = cv2.resize(image, (width, SIZE), interpolation=cv2.INTER_AREA)
    left = (SIZE - width) // 2
    square = np.pad(small, ((0, 0), (left, SIZE - width - left)))
    return bytes(cv2.imencode(".png", square)[1])


def dcmtk(path: Path) -> None:
    """Write the PNG of DCMTK's own tool."""
    command = [
        "dcmj2pnm",
        "+Wm",
        "+Syv",
        str(SIZE),
        "+on",
        str(path),
        str(path.with_suffix(".png")),
    ]
    subprocess.run(command, check=True, capture_output=True)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the children that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + spent.ru_utime + spent.ru_stime


def pil_png(gray: np.ndarray) -> bytes:
    """Return a PNG as PIL writes it."""
    buffer = BytesIO()
    Image.fromarray(gray).save(buffer, "PNG")
    return buffer.getvalue()


def medians(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each function's median CPU seconds, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, function in functions.items():
            start = cpu_seconds()
            function()
            times[name].append(cpu_seconds() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def bench() -> list[dict[str, Any]]:
    """Return goal, target, measured ratio and whether it is met, for each norm and opponent."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        synthetic_film(path)
        functions: dict[str, Callable[[], object]] = {
            "naive": lambda: naive(path),
            "published": lambda: published(path),
            "mgca": lambda: mgca(path),
        }
        if shutil.which("dcmj2pnm"):
            functions["dcmtk"] = lambda: dcmtk(path)
        for norm in TARGETS:
            options = PixelOptions(size=SIZE, norm=norm)
            functions[norm] = lambda options=options: convert(path, options)  # type: ignore[misc]
        seconds = medians(functions)
    sys.stderr.write("".join(f"{name}: {1000 * s:.1f} ms\n" for name, s in seconds.items()))
    return [
        judged(norm, name, target, seconds.get(name, math.nan) / seconds[norm])
        for norm, targets in TARGETS.items()
        for name, target in targets.items()
    ]


def judged(norm: str, name: str, target: float, measured: float) -> dict[str, Any]:
    """Return a row of the table of goals; without a measurement it is not judged."""
    return {
        "goal": f"DICOM to 512 px PNG, norm {norm}: times faster than {NAMES[name]}",
        "target": target,
        "measured": measured,
        "ok": None if math.isnan(measured) else measured >= target,
    }


if __name__ == "__main__":
    for row in bench():
        sys.stdout.write(f"{row['goal']}: {row['measured']:.1f} (target {row['target']:g})\n")
