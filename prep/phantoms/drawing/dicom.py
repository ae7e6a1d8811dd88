"""One phantom film as a DICOM file of fixed bytes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, Sequence, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from ....files import digest_of

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = str(ImplicitVRLittleEndian)
RLE = str(RLELossless)
JPEG = str(JPEGBaseline8Bit)
CLEANED = {  # de-identification methods, PS3.16 CID 7050, that MIMIC-CXR declares
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113103": "Clean Graphics Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
}


def uid_of(*purpose: str | int) -> str:
    """Return a UID derived from `purpose` (root 2.25, as for a UUID)."""
    return f"2.25.{int(digest_of(['uid', *purpose])[:32], 16)}"


def cleaned_sequence() -> Sequence:
    """Return the De-identification Method Code Sequence of MIMIC-CXR."""
    items = []
    for code, meaning in CLEANED.items():
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
        items.append(item)
    return Sequence(items)


def dicom_bytes(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    tags: Mapping[str, object],
    *,
    bits: int,
    photometric: str = "MONOCHROME2",
    syntax: str = EXPLICIT,
) -> bytes:
    """Return a DICOM file: `pixels` ([H, W], or [N, H, W] for N frames) and header `tags`.

    `bits` are the bits stored, in 8 or 16 allocated. JPEG takes 8-bit pixels, at quality 95.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = IMPLICIT if syntax == IMPLICIT else EXPLICIT
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.set_pixel_data(pixels, photometric, bits, generate_instance_uid=False)
    if syntax == RLE:
        dataset.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == JPEG:
        dataset.file_meta.TransferSyntaxUID = JPEG
        dataset.PixelData = encapsulate([jpeg_bytes(pixels)])
        dataset["PixelData"].VR = "OB"
        dataset.LossyImageCompression = "01"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def jpeg_bytes(pixels_HW: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Return 8-bit pixels [H, W] as a grey JPEG of quality 95."""
    _, data = cv2.imencode(".jpg", pixels_HW, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return bytes(data)
