"""DICOM files written by hand, hostile ones, and the real twins, as films before normalization."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from imitate.contract import Reject
from imitate.prep.pixels.dicom import read_dicom
from imitate.prep.pixels.grey import Film
from imitate.prep.pixels.picture import convert
from imitate.prep.pixels.png import PixelOptions, render

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
RLE, JPEG, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def header(shape: tuple[int, ...], syntax: str, bits: int, **tags: object) -> Dataset:
    """A film's header; tags given as None are left out."""
    allocated = 8 if bits <= 8 else 16
    facts: dict[str, object] = {
        "SOPClassUID": DX,
        "SOPInstanceUID": "2.25.1",
        "Modality": "DX",
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    } | tags
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, value in facts.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset, pixels: bytes | None, vr: str = "OW") -> memoryview:
    if pixels is not None:
        dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
        dataset["PixelData"].VR = vr
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return memoryview(buffer.getvalue())


def plain(array: np.ndarray, bits: int, syntax: str = EXPLICIT, **tags: object) -> memoryview:
    pixels = array.tobytes()
    if syntax == BIG:  # words, whatever the pixels
        pixels = np.frombuffer(pixels, "<u2").astype(">u2").tobytes()
    return written(header(array.shape, syntax, bits, **tags), pixels)


def noise(bits: int, shape: tuple[int, ...] = (32, 40), seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(dtype)


def reason(data: memoryview, **asked: bool) -> str:
    with pytest.raises(Reject) as caught:
        read_dicom(data, **asked)
    return caught.value.reason


def shown(film: Film, norm: str) -> np.ndarray:
    png = render(film, PixelOptions(size=0), norm=norm).png
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_uncompressed_pixels_are_read_as_they_are(syntax: str, bits: int) -> None:
    array = noise(bits)
    film = read_dicom(plain(array, bits, syntax))
    assert film.bits == bits and np.array_equal(film.stored, array)
    assert film.codes.dtype == (np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
def test_bits_above_those_stored_are_no_part_of_the_picture(syntax: str) -> None:
    array = noise(12)
    overlaid = array | (noise(4, seed=1).astype(np.uint16) << 12)
    assert np.array_equal(read_dicom(plain(overlaid, 12, syntax)).stored, array)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels_are_extended_from_the_bits_stored(syntax: str, bits: int) -> None:
    low = -(1 << (bits - 1))
    stored = (noise(bits).astype(np.int32) + low).astype(np.int16)
    stray = (stored.view(np.uint16) & ((1 << bits) - 1)) | (0x5000 if bits == 12 else 0)
    film = read_dicom(plain(stray.astype(np.uint16), bits, syntax, PixelRepresentation=1))
    assert np.array_equal(film.stored, stored) and film.lowest == low


def test_eight_signed_bits() -> None:
    stored = noise(8).view(np.int8)
    film = read_dicom(plain(stored, 8, PixelRepresentation=1))
    assert np.array_equal(film.stored, stored)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_rescale_comes_before_the_window(syntax: str) -> None:
    array = noise(12)
    tags = {"RescaleSlope": "2.5", "RescaleIntercept": "-100"}
    data = plain(array, 12, syntax, WindowCenter="4000", WindowWidth="6000", **tags)
    values = array * 2.5 - 100
    expected = np.rint((((values - 3999.5) / 5999) + 0.5).clip(0, 1) * 255)
    assert np.array_equal(shown(read_dicom(data), "dicom"), expected)
    assert np.array_equal(shown(read_dicom(data), "window"), expected)


@pytest.mark.filterwarnings("ignore:overflow")  # of pydicom's sigmoid
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 900), (100, 4096), (3000.5, 1.0), (9, 0.5)])
def test_window_functions_agree_with_pydicom(function: str, center: float, width: float) -> None:
    tags = {"WindowCenter": [center, 1], "WindowWidth": [width, 1], "VOILUTFunction": function}
    film = read_dicom(plain(noise(12), 12, **tags))
    if function == "LINEAR" and width < 1:
        assert film.shown is None
        return
    reference = header((2, 2), EXPLICIT, 12, **tags)
    stored = np.arange(4096, dtype=np.uint16)
    assert film.shown is not None
    assert film.shown == pytest.approx(apply_voi_lut(stored, reference) / 4095, abs=1e-9)


@pytest.mark.parametrize("width", ["0", "-5", "", "NaN"])
def test_impossible_window_is_no_window(width: str) -> None:
    array = noise(12)
    data = bytes(plain(array, 12, WindowCenter="2048", WindowWidth="1234"))
    broken = data.replace(b"1234", width.encode().ljust(4))
    film = read_dicom(memoryview(broken))
    assert film.shown is None
    assert np.array_equal(shown(film, "dicom"), np.rint(array / 4095 * 255))


@pytest.mark.parametrize("slope", ["1e308", "NaN", "-inf", "one"])
def test_impossible_rescale_is_a_reject(slope: str) -> None:
    data = bytes(plain(noise(12), 12, RescaleSlope="1.2345", RescaleIntercept="0"))
    broken = data.replace(b"1.2345", slope.encode().ljust(6))
    assert reason(memoryview(broken)) == "header_unreadable"


def lut_item(entries: np.ndarray, first: int, bits: int, vr: str) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize(("signed", "first"), [(0, 100), (1, -300)])
def test_voi_lut_agrees_with_pydicom(syntax: str, signed: int, first: int) -> None:
    entries = np.sort(noise(10, (700,)))
    array = noise(12).view(np.int16) - (2048 * signed)
    vr = "SS" if signed else "US"
    tags = {"VOILUTSequence": Sequence([lut_item(entries, first, 10, vr)])}
    data = plain(array, 12, syntax, PixelRepresentation=signed, **tags)
    film = read_dicom(data)
    reference = header((2, 2), EXPLICIT, 12, PixelRepresentation=signed, **tags)
    stored = np.arange(4096, dtype=np.int16) + film.lowest
    assert film.shown is not None
    assert np.array_equal(np.rint(film.shown * 1023), apply_voi_lut(stored, reference))


def test_modality_lut_comes_before_the_voi_and_replaces_the_rescale() -> None:
    entries = np.sort(noise(12, (4096,)))[::-1].copy()
    tags = {"ModalityLUTSequence": Sequence([lut_item(entries, 0, 12, "US")])}
    array = noise(12)
    film = read_dicom(plain(array, 12, RescaleSlope="9", WindowCenter="2048", WindowWidth="2000"))
    assert film.values[-1] == 9 * 4095
    film = read_dicom(plain(array, 12, **tags))
    assert np.array_equal(film.values, entries)
    picture = shown(film, "minmax").astype(int)
    assert picture[array == array.min()].min() > picture[array == array.max()].max()


def test_a_broken_modality_lut_is_a_reject_and_a_broken_voi_lut_is_left_out() -> None:
    item = lut_item(noise(12, (10,)), 0, 12, "US")
    item.LUTDescriptor = [4096, 0, 12]
    assert reason(plain(noise(12), 12, ModalityLUTSequence=Sequence([item]))) == "header_unreadable"
    film = read_dicom(plain(noise(12), 12, VOILUTSequence=Sequence([item])))
    assert film.shown is None


def test_inversion_by_photometric_interpretation_and_by_presentation_shape() -> None:
    array = noise(12)
    upright = shown(read_dicom(plain(array, 12)), "dicom")
    for tags in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ):
        film = read_dicom(plain(array, 12, **tags))
        assert np.array_equal(shown(film, "dicom"), 255 - upright)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("signed", [0, 1])
def test_padding_of_the_header_is_black(syntax: str, signed: int) -> None:
    array = noise(11).astype(np.int16)
    array[:8] = -2000 if signed else 4000
    array[8:12] = -1990 if signed else 4090
    limits = (-2000, -1900) if signed else (4000, 4095)
    data = plain(
        array,
        16 if signed else 12,
        syntax,
        PixelRepresentation=signed,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=limits[0],
        PixelPaddingRangeLimit=limits[1],
    )
    picture = shown(read_dicom(data), "minmax")
    assert not picture[:12].any()
    inside = array[12:].astype(float)
    expected = np.rint((inside - inside.min()) / np.ptp(inside) * 255)
    assert np.array_equal(picture[12:], 255 - expected)


def test_a_padding_value_that_the_bits_cannot_hold_means_nothing() -> None:
    array = noise(12)
    film = read_dicom(plain(array, 12, PixelPaddingValue=65535))
    assert film.padding is None


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_rgb_becomes_gray(planar: int, syntax: str) -> None:
    colors = noise(8, (32, 40, 3))
    stored = np.moveaxis(colors, 2, 0) if planar else colors
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": planar}
    dataset = header((32, 40), syntax, 8, PhotometricInterpretation="RGB", **tags)
    film = read_dicom(written(dataset, stored.tobytes(), "OB"))
    luminance = colors @ np.array([0.299, 0.587, 0.114])
    assert np.abs(film.stored - luminance).max() <= 0.51


def test_palette_becomes_gray_through_its_indices() -> None:
    array = noise(8)
    dataset = header((32, 40), EXPLICIT, 8, PhotometricInterpretation="PALETTE COLOR")
    ramps = {"Red": 0xFF00 - 0x100 * np.arange(256), "Green": np.full(256, 0x8000)}
    ramps["Blue"] = 0x100 * np.arange(256)
    for name, ramp in ramps.items():
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        ramp_bytes = ramp.astype("<u2").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", ramp_bytes)
    film = read_dicom(written(dataset, array.tobytes(), "OB"))
    luminance = 0.299 * ramps["Red"] + 0.587 * ramps["Green"] + 0.114 * ramps["Blue"]
    assert film.bits == 16
    assert np.abs(film.stored - luminance[array]).max() <= 2  # of 65535


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"Modality": "CT"}, "modality_refused"),
        ({"Modality": None}, "modality_refused"),
        ({"Modality": "US", "SOPClassUID": CAPTURE}, "modality_refused"),
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"NumberOfFrames": "2"}, "multi_frame"),
        ({"Rows": 15}, "bad_dimensions"),
        ({"Columns": 16385}, "bad_dimensions"),
        ({"Rows": None}, "bad_dimensions"),
        ({"Rows": 64}, "truncated"),
        ({"Rows": 16, "Columns": 16}, "stream_mismatch"),
        ({"BitsAllocated": 32}, "bad_bits"),
        ({"BitsAllocated": 1}, "bad_bits"),
        ({"BitsStored": 17}, "bad_bits"),
        ({"BitsStored": None}, "bad_bits"),
        ({"HighBit": 15}, "bad_bits"),
        ({"PixelRepresentation": 2}, "bad_bits"),
        ({"SamplesPerPixel": 3}, "bad_bits"),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "ARGB"}, "bad_bits"),
        ({"PhotometricInterpretation": "CMYK"}, "bad_bits"),
    ],
)
def test_what_is_not_a_plain_radiograph_is_refused(tags: dict[str, object], code: str) -> None:
    assert reason(plain(noise(12), 12, **tags)) == code


@pytest.mark.parametrize(
    "tags",
    [
        *({"Modality": name} for name in ("CR", "DX", "DR", "RG", "SC")),
        {"Modality": "OT", "SOPClassUID": CAPTURE},
        {"Modality": "DX", "SOPClassUID": CAPTURE, "BurnedInAnnotation": "NO"},
        {"NumberOfFrames": "1", "PresentationIntentType": "FOR PRESENTATION"},
    ],
)
def test_radiographs_and_secondary_captures_are_accepted(tags: dict[str, object]) -> None:
    assert read_dicom(plain(noise(12), 12, **tags)).bits == 12


def test_policies_can_be_lifted() -> None:
    data = plain(noise(12), 12, Modality="US", BurnedInAnnotation="YES")
    assert reason(data, any_modality=True) == "burned_in"
    assert reason(data, allow_burned_in=True) == "modality_refused"
    assert read_dicom(data, any_modality=True, allow_burned_in=True).bits == 12


@pytest.mark.parametrize(
    ("told", "view"),
    [("PA", "PA"), ("ap axial", "AP AXIAL"), ("SMITH^JOHN", None), ("", None), (None, None)],
)
def test_only_views_of_a_fixed_list_leave_the_header(told: str | None, view: str | None) -> None:
    data = bytes(plain(noise(12), 12, ViewPosition="LATERALLY1" if told else told))
    data = data.replace(b"LATERALLY1", (told or "").encode().ljust(10))
    assert read_dicom(memoryview(data)).view == view


def test_rows_of_another_type_are_refused() -> None:
    data = bytes(plain(noise(12), 12))
    broken = data.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0SS")
    assert broken != data
    assert reason(memoryview(broken)) == "bad_dimensions"


def test_trailing_padding_is_allowed_and_pixels_may_be_missing() -> None:
    array = noise(12)
    data = written(header(array.shape, EXPLICIT, 12), array.tobytes() + b"\0" * 100)
    assert np.array_equal(read_dicom(data).stored, array)
    assert reason(written(header((32, 40), EXPLICIT, 12), None)) == "no_pixels"


def test_a_file_cut_anywhere_is_a_reject() -> None:
    data = plain(noise(12, (16, 16)), 12, WindowCenter="2000", WindowWidth="300")
    codes = {reason(data[:length]) for length in range(len(data))}
    assert codes <= {"not_dicom", "truncated", "header_unreadable", "no_pixels", "bad_bits"} | {
        "bad_dimensions",
        "modality_refused",
    }
    assert reason(data[:-2]) == "truncated"


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.110", "1.2.840.113619.5.2", "9.9"])
def test_unknown_syntax_is_refused(uid: str) -> None:
    data = bytes(plain(noise(8), 8)).replace(
        struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + EXPLICIT.encode() + b"\0",
        struct.pack("<HH2sH", 2, 0x10, b"UI", 24) + uid.encode().ljust(24, b"\0"),
    )
    assert reason(memoryview(data)) == "syntax_unsupported"


def deflated(content: bytes) -> memoryview:
    """A file whose data set is `content`, deflated."""
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = bytes(plain(noise(8), 8, DEFLATED))
    start = head.index(DEFLATED.encode()) + len(DEFLATED)
    while head[start : start + 2] == struct.pack("<H", 2) or head[start] == 0:
        start += 1 if head[start] == 0 else 8 + struct.unpack_from("<H", head, start + 6)[0]
    return memoryview(head[:start] + squeezer.compress(content) + squeezer.flush())


def test_deflated_files_are_inflated_under_a_cap() -> None:
    array = noise(12)
    assert np.array_equal(read_dicom(plain(array, 12, DEFLATED)).stored, array)
    whole = plain(array, 12, DEFLATED)
    assert reason(whole[:-9]) == "truncated"
    zeros = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    megabyte = zeros.compress(b"\0" * (1 << 20)) + zeros.flush(zlib.Z_FULL_FLUSH)
    bomb = megabyte * 300 + zeros.flush()
    start = len(deflated(b"")) - 2  # two bytes are an empty deflated data set
    assert reason(memoryview(bytes(deflated(b""))[:start] + bomb)) == "inflate_too_large"


def element(tag: int, vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, vr, length)


def test_endless_headers_end_soon() -> None:
    """Zero elements, zeros after deflation, deep nesting: minutes of a reader without bounds."""
    head = bytes(plain(noise(8), 8))
    front = head[: head.index(b"\x08\0\x16\0UI")]
    hostile = {
        "zeros": front + b"\0" * (8 << 20),
        "deflated zeros": bytes(deflated(b"\0" * (8 << 20))),
        "nested": front
        + (element(0x00081140, b"SQ", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF))
        * 5000,
        "long sequence": front + element(0x00281010, b"SQ", 6 << 20) + b"\0" * (6 << 20),
        "long modality LUT": front + element(0x00283000, b"SQ", 6 << 20) + b"\0" * (6 << 20),
        "endless file meta": head[:132] + struct.pack("<HH2sH", 2, 1, b"UI", 0) * (1 << 18),
    }
    codes = {name: reason(memoryview(data)) for name, data in hostile.items()}
    assert codes.pop("long sequence") == "no_pixels"
    assert set(codes.values()) == {"header_unreadable"}, codes


def encapsulated(stream: bytes, syntax: str, bits: int, **tags: object) -> memoryview:
    return written(header((32, 40), syntax, bits, **tags), encapsulate([stream]), "OB")


def jpeg(array: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def jpeg2000(array: np.ndarray) -> bytes:
    jp2 = bytes(cv2.imencode(".jp2", array)[1])
    return jp2[jp2.index(b"\xff\x4f\xff\x51") :]


def smooth(bits: int) -> np.ndarray:
    rows, columns = np.mgrid[:32, :40]
    level = (np.sin(rows / 9) + np.cos(columns / 7) + 2) / 4 * ((1 << bits) - 1)
    return level.astype(np.uint8 if bits <= 8 else np.uint16)


def test_compressed_streams_are_decoded() -> None:
    array = smooth(8)
    film = read_dicom(encapsulated(jpeg(array), JPEG, 8))
    assert np.abs(film.stored - array).max() <= 4
    film = read_dicom(encapsulated(jpeg2000(array), J2K, 8))
    assert np.abs(film.stored - array).max() <= 16


@pytest.mark.parametrize("syntax", [JPEG, J2K])
def test_streams_are_compared_with_their_header_before_they_are_decoded(syntax: str) -> None:
    stream = jpeg(smooth(8)) if syntax == JPEG else jpeg2000(smooth(8))
    assert reason(encapsulated(stream, syntax, 8, Rows=64)) == "stream_mismatch"
    assert reason(encapsulated(stream, syntax, 8, Columns=39)) == "stream_mismatch"
    assert reason(encapsulated(stream, syntax, 12)) == "stream_mismatch"
    color = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    assert reason(encapsulated(stream, syntax, 8, **color)) == "stream_mismatch"
    assert reason(encapsulated(b"\0" * 200, syntax, 8)) == "stream_mismatch"
    assert reason(encapsulated(stream[:-2], syntax, 8)) == "truncated"
    assert reason(encapsulated(stream[: len(stream) // 2], syntax, 8)) == "truncated"
    assert read_dicom(encapsulated(stream + b"\0" * 6, syntax, 8)).bits == 8


def test_a_stream_that_claims_to_be_huge_is_refused_undecoded() -> None:
    stream = bytearray(jpeg2000(smooth(8)))
    struct.pack_into(">II", stream, 8, 60000, 60000)
    assert reason(encapsulated(bytes(stream), J2K, 8)) == "stream_mismatch"


def rle(segments: list[bytes], count: int | None = None) -> bytes:
    offsets = np.cumsum([64, *(len(segment) for segment in segments)])[:-1].tolist()
    offsets += [0] * (15 - len(offsets))
    return struct.pack("<16I", count or len(segments), *offsets) + b"".join(segments)


def rle_literal(data: bytes) -> bytes:
    parts = [data[i : i + 128] for i in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def test_rle_is_decoded_and_checked() -> None:
    array = noise(8)
    whole = rle_literal(array.tobytes())
    assert np.array_equal(read_dicom(encapsulated(rle([whole]), RLE, 8)).stored, array)
    wide = noise(12)
    high, low = (wide >> 8).astype(np.uint8).tobytes(), (wide & 0xFF).astype(np.uint8).tobytes()
    stream = rle([rle_literal(high), rle_literal(low)])
    assert np.array_equal(read_dicom(encapsulated(stream, RLE, 12)).stored, wide)
    assert reason(encapsulated(rle([whole]), RLE, 12)) == "stream_mismatch"
    assert reason(encapsulated(rle([whole], count=15), RLE, 8)) == "stream_mismatch"
    assert reason(encapsulated(rle([whole[:10]]), RLE, 8)) == "truncated"
    assert reason(encapsulated(b"\1\0", RLE, 8)) == "truncated"
    assert reason(encapsulated(rle([whole[:-40]]), RLE, 8)) == "decode_failed"


def test_items_and_frames_of_compressed_pixels_are_checked() -> None:
    stream = jpeg(smooth(8))
    halves = [stream[:300], stream[300:] + b"\0" * (len(stream) % 2)]
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in halves)
    table = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

    def of(value: bytes) -> memoryview:
        dataset = header((32, 40), JPEG, 8)
        dataset.PixelData = value
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        return written(dataset, None)

    assert np.abs(read_dicom(of(table + items + end)).stored - smooth(8)).max() <= 4
    assert reason(of(table + end)) == "truncated"
    two = struct.pack("<HHI2I", 0xFFFE, 0xE000, 8, 0, 4)
    assert reason(of(two + items + end)) == "multi_frame"
    data = bytes(of(table + items + end))
    broken = data.replace(table + items[:4], table + b"\xfe\xff\0\xe1")
    assert reason(memoryview(broken)) == "stream_mismatch"
    assert reason(memoryview(data[: data.index(items) + 200])) == "truncated"


def test_nothing_of_the_header_is_in_a_reject() -> None:
    secret = "SECRET^NAME"
    data = bytes(plain(noise(12), 12, PatientName=secret, RescaleSlope="1.25", Modality="CT"))
    for broken in (data, data.replace(b"1.25", b"S3cr"), data.replace(b"CT", b"DX")[:-100]):
        with pytest.raises(Reject) as caught:
            read_dicom(memoryview(broken), any_modality=b"S3cr" in broken)
        text = f"{caught.value} {caught.value.detail} {caught.value.__cause__}"
        assert "secret" not in text.lower() and "s3cr" not in text.lower()
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


# --- real files -----------------------------------------------------------------------------


def film_at(path: Path) -> Film:
    return read_dicom(memoryview(path.read_bytes()), any_modality=True)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_real_pixels_and_mimic_are_those_of_pydicom_and_the_authors(shared_data: Path) -> None:
    dicom = shared_data / "dicom"
    paths = sorted([*(dicom / "chest").glob("*.dcm"), *(dicom / "other").glob("ct_*.dcm")])
    paths += [*(dicom / "radiograph").glob("rg2_*.dcm")]
    assert len(paths) > 20
    for path in paths:
        dataset = dcmread(path)
        stored = pixel_array(dataset, decoding_plugin=plugin(dataset))
        film = film_at(path)
        assert np.array_equal(film.stored, stored), path.name
        expected = official_mimic(stored, dataset.PhotometricInterpretation)
        assert np.array_equal(shown(film, "mimic"), expected), path.name


def plugin(dataset: Dataset) -> str:
    """Pillow has the inverse DCT of the reference library; pylibjpeg's differs by a level."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEG:
        return "pillow"
    return "pylibjpeg" if syntax.is_encapsulated else ""


def official_mimic(stored: np.ndarray, photometric: str) -> np.ndarray:
    """The conversion of MIMIC-CXR to JPG as its authors describe it, step by step."""
    image = stored.astype(np.float64)
    image -= image.min()
    image /= image.max()
    image = (image * 255).astype(np.uint8)
    if photometric == "MONOCHROME1":
        image = cv2.bitwise_not(image)
    return cv2.equalizeHist(image)


@pytest.mark.real
def test_transcoded_twins_are_one_picture(shared_data: Path) -> None:
    chest = shared_data / "dicom" / "chest"
    twins = sorted(chest.glob("nih_dx_*.dcm"))
    assert len(twins) == 6
    assert len({convert(path, PixelOptions()).png for path in twins}) == 1
    pair = [chest / name for name in ("rg1_deflated.dcm", "rg1_j2k_lossy.dcm")]
    for norm in ("mimic", "window"):
        options = PixelOptions(norm=norm)
        assert convert(pair[0], options) == convert(pair[1], options)


@pytest.mark.real
def test_monochrome1_twin_is_the_inverse(shared_data: Path) -> None:
    chest = shared_data / "dicom" / "chest"
    dark, light = chest / "siim_cr_fake_monochrome1.dcm", chest / "siim_cr_jpeg_baseline.dcm"
    films = film_at(dark), film_at(light)
    assert np.array_equal(films[0].codes, films[1].codes)
    assert films[0].inverted and films[0].monochrome1
    assert not films[1].inverted and not films[1].monochrome1
    for norm in ("dicom", "minmax", "window", "none"):
        pictures = [shown(film, norm) for film in films]
        assert np.array_equal(pictures[0], 255 - pictures[1]), norm


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_dicom_norm_is_what_pydicom_makes_of_the_header(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    names = "chest/rg1_deflated.dcm radiograph/mg_multiwindow_voilut.dcm other/vlut_04.dcm"
    names += " other/ct_jpeg_ext_2_4.dcm other/ct_explicit_be.dcm"
    for name in names.split():
        dataset = dcmread(folder / name)
        film = film_at(folder / name)
        seen = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        assert film.shown is not None and np.ptp(seen) > 0
        ours = film.shown[film.codes]
        # pydicom leaves the scale of its result open, so both are stretched
        expected = (seen - seen.min()) / np.ptp(seen.astype(np.float64))
        assert np.abs(expected - (ours - ours.min()) / np.ptp(ours)).max() < 1e-6, name
