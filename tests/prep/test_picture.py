"""Any file to a picture: PNG and JPEG, what is neither, broken bytes, and every real file."""

import gzip
import os
import re
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset

from imitate.contract import REASONS, Reject
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.picture import Picture, PixelOptions, convert, upright

KEPT = PixelOptions(size=0)


def noise(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def encoded(array: np.ndarray, ending: str = ".png") -> bytes:
    return bytes(cv2.imencode(ending, array)[1])


def pixels(picture: Picture) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(picture.png, np.uint8), cv2.IMREAD_UNCHANGED)


def at(tmp_path: Path, data: bytes, name: str = "picture") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def reason(path: Path, options: PixelOptions = KEPT) -> str:
    with pytest.raises(Reject) as caught:
        convert(path, options)
    return caught.value.reason


def dicom(array: np.ndarray, **tags: object) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "2.25.1"
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.set_pixel_data(array, "MONOCHROME2", 8 * array.itemsize, generate_instance_uid=False)
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_grey_levels_of_eight_bit_pictures_are_kept(tmp_path: Path, ending: str) -> None:
    data = encoded(noise((30, 50)), ending)
    picture = convert(at(tmp_path, data), KEPT)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(pixels(picture), expected)
    assert (picture.norm, picture.view, picture.orientation) == ("none", None, 1)


def test_colour_becomes_gray_and_alpha_is_dropped(tmp_path: Path) -> None:
    gray = noise((30, 50))
    rgb = np.dstack([gray] * 3)
    for array in (rgb, np.dstack([rgb, noise((30, 50), seed=1)])):
        assert np.array_equal(pixels(convert(at(tmp_path, encoded(array)), KEPT)), gray)
    color = noise((30, 50, 3))
    luminance = color @ np.array([0.114, 0.587, 0.299])
    assert np.abs(pixels(convert(at(tmp_path, encoded(color)), KEPT)) - luminance).max() <= 0.51


def test_sixteen_bits_are_stretched_by_default_and_never_kept_as_eight(tmp_path: Path) -> None:
    array = noise((30, 50), np.uint16).clip(500, 40000)
    path = at(tmp_path, encoded(array))
    picture = convert(path, KEPT)
    assert picture.norm == "minmax" and picture.bits == 8
    assert np.array_equal(pixels(picture), np.rint((array - 500) / 39500 * 255))
    wide = convert(path, PixelOptions(size=0, bits=16))
    assert wide.bits == 16 and pixels(wide).dtype == np.uint16
    assert np.array_equal(pixels(wide), np.rint((array - 500) / 39500 * 65535))
    assert reason(path, PixelOptions(norm="none")) == "bad_bits"


def test_eight_bits_written_as_sixteen_are_stretched(tmp_path: Path) -> None:
    picture = convert(at(tmp_path, encoded(noise((30, 50)))), PixelOptions(size=0, bits=16))
    assert picture.norm == "minmax" and pixels(picture).max() == 65535


def palette_png(indices: np.ndarray, colors: np.ndarray) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", colors.tobytes())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_palette_png(tmp_path: Path) -> None:
    colors = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 3, 1)
    indices = noise((20, 30))
    picture = convert(at(tmp_path, palette_png(indices, colors)), KEPT)
    assert np.array_equal(pixels(picture), 255 - indices)


def exif(orientation: int, order: str) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    other = struct.pack(f"{order}HHII", 0x0100, 4, 1, 77)
    return mark + struct.pack(f"{order}HIH", 42, 8, 2) + other + entry + b"\0" * 4


def with_exif(data: bytes, block: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        chunk = b"eXIf" + block
        framed = struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return data[:33] + framed + data[33:]
    body = b"Exif\0\0" + block
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


TURNS = {  # what a viewer does to show the stored rows upright
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_applied_first(
    tmp_path: Path, ending: str, orientation: int, order: str
) -> None:
    data = encoded(noise((24, 40)), ending)
    plain = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    path = at(tmp_path, with_exif(data, exif(orientation, order)))
    picture = convert(path, KEPT)
    assert np.array_equal(pixels(picture), TURNS[orientation](plain))
    assert picture.orientation == orientation
    assert (picture.source_height, picture.source_width) == pixels(picture).shape
    viewed = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(upright(plain, orientation), viewed)


@pytest.mark.parametrize("block", [b"", b"II", b"II*\0\xff\xff\xff\x7f", exif(9, "<"), b"XX" * 30])
def test_broken_exif_is_no_orientation(tmp_path: Path, block: bytes) -> None:
    data = with_exif(encoded(noise((24, 40)), ".jpg"), block)
    assert convert(at(tmp_path, data), KEPT).orientation == 1


def test_gzipped_files_are_what_they_hold(tmp_path: Path) -> None:
    inner = dicom(noise((20, 30)))
    plain = convert(at(tmp_path, inner, "a.dcm"), KEPT)
    assert convert(at(tmp_path, gzip.compress(inner), "a.dcm.gz"), KEPT) == plain
    assert plain.view == "PA" and plain.norm == "minmax"
    assert reason(at(tmp_path, gzip.compress(inner)[:-20], "b.dcm.gz")) == "truncated"
    assert reason(at(tmp_path, gzip.compress(b"a,b\n1,2\n"), "list.csv.gz")) == "not_a_picture"
    assert reason(at(tmp_path, gzip.compress(inner[140:]), "c.dcm.gz")) == "not_dicom"


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "P", "1")),
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    ],
)
def test_every_mode_of_png_and_jpeg_is_read_as_pillow_reads_it(
    tmp_path: Path, kind: str, mode: str
) -> None:
    rows, columns = np.mgrid[:40, :60]
    base = ((np.sin(rows / 9) + np.cos(columns / 7) + 2) / 4 * 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([base, np.roll(base, 5, 1), 255 - base])).convert(mode)
    path = tmp_path / "picture"
    image.save(path, kind, quality=98, progressive=mode == "RGB")
    opened = Image.open(path)
    seen = (opened.convert("RGB") if mode == "P" else opened).convert("L")
    picture = convert(path, KEPT)
    assert picture.norm == "none"
    # colour JPEGs are made gray by way of RGB here, and chroma is rounded on the way
    assert np.abs(pixels(picture).astype(int) - np.asarray(seen)).max() <= 2


def test_sixteen_bit_colour_is_one_picture_of_sixteen_bits(tmp_path: Path) -> None:
    gray = noise((30, 50), np.uint16)
    for layers in (3, 4):
        path = at(tmp_path, encoded(np.dstack([gray] * layers)))
        picture = convert(path, PixelOptions(size=0, bits=16))
        spread = (gray.astype(float) - gray.min()) / np.ptp(gray) * 65535
        assert np.abs(pixels(picture) - spread).max() <= 2


def test_each_norm_is_written_down(tmp_path: Path) -> None:
    path = at(tmp_path, dicom(noise((40, 40), np.uint16)))
    for norm in ("mimic", "window", "minmax", "dicom"):
        assert convert(path, PixelOptions(norm=norm)).norm == norm


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.png", b"", "file_empty"),
        ("notes.txt", b"Normal chest.", "not_a_picture"),
        ("LICENSE", b"Permission is granted", "not_a_picture"),
        ("labels.csv", b"a,b\n", "not_a_picture"),
        ("film.gif", b"GIF89a" + bytes(99), "not_a_picture"),
        ("film.dcm", b"ISO_IR 100" * 30, "not_dicom"),
        ("IM000001", bytes(range(256)) * 3, "not_dicom"),
        ("film.png", b"<html>not found</html>", "header_unreadable"),
        ("film.JPG", b"<html>not found</html>", "header_unreadable"),
        ("film.jpg", b"\xff\xd8\xff\xe0" + bytes(99), "header_unreadable"),
        ("small.png", encoded(noise((15, 99))), "bad_dimensions"),
        ("small.jpg", encoded(noise((99, 15)), ".jpg"), "bad_dimensions"),
        ("blank.png", encoded(np.full((20, 20), 7, np.uint8)), "blank_picture"),
        ("cut.png", encoded(noise((40, 40)))[:-13], "truncated"),
        ("half.png", encoded(noise((40, 40)))[:700], "truncated"),
        ("cut.jpg", encoded(noise((40, 40)), ".jpg")[:-2], "truncated"),
        ("half.jpg", encoded(noise((40, 40)), ".jpg")[:700], "truncated"),
    ],
)
def test_what_is_no_picture_has_a_reason(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    assert reason(at(tmp_path, data, name)) == code


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    data = bytearray(encoded(noise((40, 40))))
    data[len(data) // 2] ^= 4
    assert reason(at(tmp_path, bytes(data))) == "decode_failed"


def test_huge_dimensions_are_refused_before_decoding(tmp_path: Path) -> None:
    data = bytearray(encoded(noise((40, 40))))
    struct.pack_into(">II", data, 16, 60000, 60000)
    assert reason(at(tmp_path, bytes(data))) == "bad_dimensions"


def test_places_that_are_no_files(tmp_path: Path) -> None:
    assert reason(tmp_path / "absent.dcm") == "file_missing"
    assert reason(tmp_path) == "not_a_picture"
    os.mkfifo(tmp_path / "pipe.dcm")
    assert reason(tmp_path / "pipe.dcm") == "not_a_picture"
    with (tmp_path / "large.dcm").open("wb") as handle:
        handle.truncate((256 << 20) + 1)
    assert reason(tmp_path / "large.dcm") == "file_too_large"


FILM = dicom(
    np.arange(400, dtype=np.uint16).reshape(20, 20) * 160,
    WindowCenter="30000",
    WindowWidth="60000",
    RescaleSlope="1",
    RescaleIntercept="0",
    PixelPaddingValue=0,
)
SOURCES = [FILM, encoded(noise((16, 16))), encoded(noise((16, 16)), ".jpg")]

mutations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.binary(max_size=8)),
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    broken = bytearray(data)
    for kind, place, content in changes:
        at = 132 + int(place * (len(broken) - 132)) if broken[128:132] == b"DICM" else 8
        stop = at if kind == "insert" else at + len(content)
        broken[at:stop] = b"" if kind == "cut" else content
    return bytes(broken)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    source=st.sampled_from(SOURCES),
    changes=mutations,
    norm=st.sampled_from(["mimic", "window", "minmax", "dicom"]),
)
def test_broken_bytes_are_a_picture_or_a_reason(
    tmp_path: Path, source: bytes, changes: list[tuple[str, float, bytes]], norm: str
) -> None:
    path = at(tmp_path, mutated(source, changes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = convert(path, PixelOptions(size=32, norm=norm))
        except Reject as reject:
            assert reject.reason in REASONS
        else:
            assert pixels(picture).shape == (32, 32) and np.ptp(pixels(picture)) > 0


# --- real files -----------------------------------------------------------------------------


def outcome(decoder: Decoder, path: Path, options: PixelOptions) -> str:
    """What docs/reference/dicom.md says of a file: its reason code, or a picture and its view."""
    try:
        picture = decoder.convert(path, options)
    except Reject as reject:
        return f"`{reject.reason}`"
    assert pixels(picture).shape == (options.size, options.size)
    assert np.ptp(pixels(picture)) > 0
    return f"picture, view {picture.view}" if picture.view else "picture"


@pytest.mark.real
def test_every_real_dicom_is_what_the_docs_say(repository: Path, shared_data: Path) -> None:
    """Within a quarter of the time and of the memory that a file may take."""
    text = (repository / "docs" / "reference" / "dicom.md").read_text()
    rows = re.findall(r"^\| `(\w+/\w+\.dcm)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    told = {name: (plain, any_) for name, plain, any_ in rows}
    folder = shared_data / "dicom"
    found = {}
    with Decoder(timeout=15, memory=1 << 29) as decoder:
        for path in folder.rglob("*.dcm"):
            found[str(path.relative_to(folder))] = (
                outcome(decoder, path, PixelOptions()),
                outcome(decoder, path, PixelOptions(any_modality=True, norm="window", size=128)),
            )
    assert found == told


@pytest.mark.real
def test_real_png_and_jpeg_keep_their_grey_levels(shared_data: Path) -> None:
    paths = sorted((shared_data / "nih" / "images").glob("*.png"))[:5]
    paths += sorted((shared_data / "openi" / "images").glob("*.jpg"))[:20]
    paths += sorted((shared_data / "covidx" / "images").iterdir())[::4]
    paths += sorted((shared_data / "covidx" / "hannover_png").iterdir())[:3]
    assert len(paths) > 30
    for path in paths:
        picture = convert(path, KEPT)
        expected = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert picture.norm == "none"
        # colour JPEGs are made gray by libjpeg's luminance there, by BT.601 of RGB here
        assert np.abs(pixels(picture).astype(int) - expected).max() <= 2, path.name
