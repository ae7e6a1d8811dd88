"""Decoders against each other: imagecodecs, DCMTK, pydicom's others, and reduced resolution."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from typer.testing import CliRunner

from imitate.cli import app
from imitate.contract import REASONS, Reject, UsageError
from imitate.prep.pixels.decoder import Decoder
from imitate.prep.pixels.dicom import SYNTAXES, read_dicom
from imitate.prep.pixels.grey import Film
from imitate.prep.pixels.picture import convert
from imitate.prep.pixels.png import PixelOptions, halvings, render

SYNTAX = "1.2.840.10008.1.2"
BASELINE, J2K = f"{SYNTAX}.4.50", f"{SYNTAX}.4.90"
# rows * 3 + columns * 2 on 32 x 40 pixels, as a lossless HTJ2K stream
HTJ2K_RAMP = base64.b64decode(
    "/0//UQApQAAAAAAoAAAAIAAAAAAAAAAAAAAAKAAAACAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBE"
    "AB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAJ0AAf+TwAAqAMf/"
    "Q/4BQjQAwAARwAATAABjAGz2ACI0AMAAEcAAE4AB4wC2tQAkd1UAwAAVEAAFSBAA/tF+y3UAWlX15kfJ7LYAwAAVcA"
    "AFcAAAAO/gp6enQngATJIkyf6BPZJ79knsugDAACugABaoAAD8f5T09PT09PTyfAAEAAAAAP7/ejXv3Xv3Xv3Xv3Xs"
    "vwD/2Q=="
)


def written(
    stream: bytes, shape: tuple[int, int], syntax: str, bits: int, **tags: object
) -> memoryview:
    """A DX film of one compressed stream."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "2.25.1"
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return memoryview(buffer.getvalue())


def film_at(path: Path) -> Film:
    return read_dicom(memoryview(path.read_bytes()), any_modality=True)


@pytest.fixture(scope="module")
def films(shared_data: Path) -> dict[Path, Film]:
    """Every real DICOM file that is a picture, decoded."""
    found = {}
    for path in sorted((shared_data / "dicom").rglob("*.dcm")):
        with contextlib.suppress(Reject):
            found[path] = film_at(path)
    return found


@pytest.mark.parametrize("end", ["201", "202"])
def test_lossless_htj2k_is_decoded(end: str) -> None:
    rows, columns = np.mgrid[:32, :40]
    film = read_dicom(written(HTJ2K_RAMP, (32, 40), f"{SYNTAX}.4.{end}", 12))
    assert np.array_equal(film.stored, rows * 3 + columns * 2)
    with pytest.raises(Reject, match="stream_mismatch"):
        read_dicom(written(HTJ2K_RAMP, (32, 41), f"{SYNTAX}.4.{end}", 12))


@pytest.mark.real
def test_gray_jpeg_baseline_is_what_other_readers_make_of_it(shared_data: Path) -> None:
    path = shared_data / "dicom" / "chest" / "siim_cr_jpeg_baseline.dcm"
    dataset, stored = dcmread(path), film_at(path).stored
    assert np.array_equal(stored, pixel_array(dataset, decoding_plugin="pillow"))
    other = pixel_array(dataset, decoding_plugin="pylibjpeg").astype(int)
    assert np.abs(stored - other).max() <= 1


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_imagecodecs_and_pylibjpeg_make_the_same_pixels(films: dict[Path, Film]) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="the extra `fast` is not installed")
    lossless = [f"{SYNTAX}.4.{end}" for end in ("57", "70", "80", "81")]
    seen = set()
    for path, film in films.items():
        dataset = dcmread(path)
        syntax = dataset.file_meta.TransferSyntaxUID
        as_ht = imagecodecs.htj2k_encode(film.codes, reversible=True)
        ht = written(as_ht, film.codes.shape, f"{SYNTAX}.4.201", film.bits)
        assert np.array_equal(read_dicom(ht).codes, film.codes), path.name
        if syntax in lossless:
            stored = pixel_array(dataset, decoding_plugin="pylibjpeg")
            assert np.array_equal(film.stored, stored), path.name
            seen.add(syntax)
    assert seen == set(lossless)


def test_the_docs_name_every_syntax(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "dicom.md").read_text()
    named = set()
    for cell in re.findall(rf"^\| ({re.escape(SYNTAX)}[^|]*) \|", text, re.M):
        first, *more = cell.split(", ")
        named |= {first, *(first.rsplit(".", 1)[0] + end for end in more)}
    assert named == SYNTAXES


# --- DCMTK ----------------------------------------------------------------------------------

UNPACKERS = {
    **dict.fromkeys((f"{SYNTAX}.4.{end}" for end in ("50", "51", "57", "70")), "dcmdjpeg"),
    **dict.fromkeys((f"{SYNTAX}.4.{end}" for end in ("80", "81")), "dcmdjpls"),
    f"{SYNTAX}.5": "dcmdrle",
}
DRAWERS = {"dcmdjpeg": "dcmj2pnm", "dcmdjpls": "dcml2pnm"}
LEVELS_OFF = {f"{SYNTAX}.4.51": 1}  # 12-bit DCT: libraries round differently
PALETTES = {"us_palette.dcm"}  # DCMTK keeps the indices
NOT_IN_DCMTK = (J2K, f"{SYNTAX}.4.91")


def unpacked(path: Path, tmp_path: Path) -> np.ndarray | None:
    """The pixels as DCMTK stores them uncompressed, None where it has no decoder."""
    syntax = dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    if syntax in NOT_IN_DCMTK:
        return None
    out, tool = tmp_path / "plain.dcm", UNPACKERS.get(syntax)
    command = [tool] if tool else ["dcmconv", "+te"]
    subprocess.run([*command, path, out], check=True, capture_output=True)
    array = dcmread(out).pixel_array
    return cv2.cvtColor(array, cv2.COLOR_RGB2GRAY) if array.ndim == 3 else array


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_every_film_has_the_pixels_of_dcmtk(films: dict[Path, Film], tmp_path: Path) -> None:
    if shutil.which("dcmdjpeg") is None:
        pytest.skip("DCMTK is not installed")
    compared = 0
    for path, film in films.items():
        theirs = unpacked(path, tmp_path)
        if theirs is None or path.name in PALETTES:
            continue
        syntax = dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        assert np.abs(film.stored - theirs).max() <= LEVELS_OFF.get(syntax, 0), path.name
        compared += 1
    assert compared >= 24


@pytest.mark.real
def test_jpeg_2000_has_the_pixels_of_another_library(films: dict[Path, Film]) -> None:
    packed = [path for path in films if "_j2k_" in path.name]
    assert len(packed) == 4
    for path in packed:
        theirs = pixel_array(dcmread(path), decoding_plugin="pillow")
        assert np.array_equal(films[path].stored, theirs), path.name


@pytest.mark.real
def test_windows_and_inversion_are_those_of_dcmtk(films: dict[Path, Film], tmp_path: Path) -> None:
    if shutil.which("dcmj2pnm") is None:
        pytest.skip("DCMTK is not installed")
    out, compared = tmp_path / "shown.pgm", 0
    for path, film in films.items():
        dataset = dcmread(path, stop_before_pixels=True)
        syntax = dataset.file_meta.TransferSyntaxUID
        if film.shown is None or "VOILUTSequence" in dataset or syntax in NOT_IN_DCMTK:
            continue
        tool = DRAWERS.get(UNPACKERS.get(syntax, ""), "dcm2pnm")
        subprocess.run([tool, "+op", "+Wi", "1", path, out], check=True, capture_output=True)
        theirs = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
        png = render(film, PixelOptions(size=0), norm="dicom").png
        ours = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        off = 3 if syntax in LEVELS_OFF else 1  # a level of the film is more than one of the PNG
        assert np.abs(ours.astype(int) - theirs).max() <= off, path.name
        compared += 1
    assert compared >= 10


# --- reduced resolution ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "options", "expected"),
    [
        ((3056, 2500), {}, 3),
        ((3056, 2500), {"size": 512}, 2),
        ((3056, 2500), {"size": 2048}, 0),
        ((3056, 2500), {"size": 0}, 0),
        ((3056, 2500), {"size": 512, "fit": "crop"}, 1),
        ((3056, 2500), {"size": 512, "fit": "stretch"}, 1),
        ((512, 512), {"size": 256}, 0),
        ((717, 717), {"size": 256}, 1),
        ((716, 716), {"size": 256}, 0),
    ],
)
def test_a_picture_is_halved_only_where_it_stays_well_above_the_size(
    side: tuple[int, int], options: dict[str, object], expected: int
) -> None:
    fast = PixelOptions(decode="fast", **options)  # type: ignore[arg-type]
    assert halvings(*side, options=fast) == expected
    assert halvings(*side, options=PixelOptions(**options)) == 0  # type: ignore[arg-type]


def test_decode_is_exact_or_fast() -> None:
    with pytest.raises(UsageError, match="--decode"):
        PixelOptions(decode="quick")


def drawing(shape: tuple[int, int], bits: int) -> np.ndarray:
    """Slow waves with one bright square, its corner at a third of the sides."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    level = (np.sin(rows / 70) + np.cos(columns / 50) + 2) / 8
    top, left, side = shape[0] // 3, shape[1] // 3, shape[0] // 10
    level[top : top + side, left : left + side] = 1
    return (level * ((1 << bits) - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg(array: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def jpeg2000(array: np.ndarray) -> bytes:
    jp2 = bytes(cv2.imencode(".jp2", array, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1])
    return jp2[jp2.index(b"\xff\x4f\xff\x51") :]


def gray_of(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).astype(int)


def centroid(picture: np.ndarray) -> np.ndarray:
    return np.argwhere(picture > 200).mean(0)


@pytest.mark.parametrize("shape", [(800, 600), (811, 629), (1000, 1003)])
@pytest.mark.parametrize(
    ("syntax", "bits", "signed"),
    [(BASELINE, 8, 0), (BASELINE, 8, 1), (J2K, 8, 0), (J2K, 12, 0), (J2K, 16, 0)],
)
def test_fast_is_nearly_exact_and_lies_in_the_same_place(
    tmp_path: Path, shape: tuple[int, int], syntax: str, bits: int, signed: int
) -> None:
    path, array = tmp_path / "film.dcm", drawing(shape, bits)
    stream = jpeg(array) if syntax == BASELINE else jpeg2000(array)
    path.write_bytes(written(stream, shape, syntax, bits, PixelRepresentation=signed))
    norm = "mimic" if signed else "dicom"
    exact = convert(path, PixelOptions(size=96, norm=norm))
    fast = convert(path, PixelOptions(size=96, norm=norm, decode="fast"))
    assert fast.png != exact.png  # it was reduced
    for name in ("height", "width", "source_height", "scale_x", "scale_y", "offset_x", "offset_y"):
        assert getattr(fast, name) == getattr(exact, name)
    pictures = gray_of(fast.png), gray_of(exact.png)
    assert np.median(np.abs(pictures[0] - pictures[1])) <= 1
    if norm == "dicom":
        assert np.abs(centroid(pictures[0]) - centroid(pictures[1])).max() <= 0.5


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_fast_jpeg_files_are_turned_and_gray(tmp_path: Path, orientation: int) -> None:
    entry = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0" * 7
    body = b"Exif\0\0" + entry
    stream = jpeg(np.dstack([drawing((811, 629), 8)] * 3))
    marked = stream[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + stream[2:]
    path = tmp_path / "film.jpg"
    path.write_bytes(marked)
    exact, fast = (convert(path, PixelOptions(size=96, decode=how)) for how in ("exact", "fast"))
    assert fast.orientation == orientation and fast.norm == "none"
    assert (fast.source_height, fast.source_width) == (exact.source_height, exact.source_width)
    assert (fast.scale_x, fast.offset_x) == (exact.scale_x, exact.offset_x)
    difference = np.abs(gray_of(fast.png) - gray_of(exact.png))
    assert fast.png != exact.png and np.median(difference) <= 1


def test_the_option_of_the_command_reaches_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "film.jpg").write_bytes(jpeg(drawing((800, 600), 8)))
    out = tmp_path / "out"
    command = ["prep", "images", str(tmp_path / "in"), "-o", str(out), "--size", "96", "--json"]
    done = CliRunner().invoke(app, [*command, "--decode", "fast"])
    assert done.exit_code == 0 and json.loads(done.stdout)["out"] == 1
    expected = convert(tmp_path / "in" / "film.jpg", PixelOptions(size=96, decode="fast")).png
    assert (out / "film.png").read_bytes() == expected
    assert CliRunner().invoke(app, [*command, "--decode", "quick"]).exit_code != 0


def test_padding_and_streams_without_levels_are_decoded_whole(tmp_path: Path) -> None:
    array = drawing((800, 600), 8)
    path = tmp_path / "film.dcm"
    fast, exact = PixelOptions(size=96, decode="fast"), PixelOptions(size=96)
    padded = written(jpeg(array), array.shape, BASELINE, 8, PixelPaddingValue=255)
    bare = bytearray(jpeg2000(array))
    cod = bare.index(b"\xff\x52")
    assert bare[cod + 9] > 3  # halvings that COD tells of
    bare[cod : cod + 2] = b"\xff\x64"  # a comment; no decoder reads that, whole or not
    path.write_bytes(padded)
    assert convert(path, fast) == convert(path, exact)
    path.write_bytes(written(bytes(bare), array.shape, J2K, 8))
    with pytest.raises(Reject, match="decode_failed"):
        convert(path, fast)


@pytest.mark.real
def test_fast_films_are_close_to_exact_ones(shared_data: Path) -> None:
    """Levels of 255 (root mean square): what docs/reference/dicom.md says."""
    names = ("dx966_j2k_lossless", "rg1_j2k_lossy", "nih_dx_j2k_lossless", "siim_cr_jpeg_baseline")
    for name in names:
        path = shared_data / "dicom" / "chest" / f"{name}.dcm"
        for norm, limit in (("window", 2.5), ("mimic", 3.5)):
            exact, fast = (
                gray_of(convert(path, PixelOptions(norm=norm, decode=how)).png)
                for how in ("exact", "fast")
            )
            error = np.sqrt(((exact - fast) ** 2).mean())
            assert 0 < error < limit, (name, norm, error)


@pytest.mark.real
def test_signed_jpeg_2000_is_reduced_too(shared_data: Path, tmp_path: Path) -> None:
    slice_ = dcmread(shared_data / "dicom" / "other" / "ct_j2k_lossy.dcm")
    stream = next(generate_frames(slice_.PixelData, number_of_frames=1))
    path, syntax = tmp_path / "slice.dcm", f"{SYNTAX}.4.91"  # its padding would keep it whole
    path.write_bytes(written(stream, (512, 512), syntax, 16, PixelRepresentation=1))
    exact, fast = (
        gray_of(convert(path, PixelOptions(size=96, norm="window", decode=how)).png)
        for how in ("exact", "fast")
    )
    assert (exact != fast).any() and np.corrcoef(exact.ravel(), fast.ravel())[0, 1] > 0.995


# --- broken bytes ---------------------------------------------------------------------------

SMALL = 1_200_000  # bytes of a file that is broken here, for the sake of time
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "cut"]),
        st.floats(0, 1).map(lambda place: place**3),  # most of what hurts is in the header
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    broken = bytearray(data)
    for kind, place, content in changes:
        at = 132 + int(place * max(len(broken) - 132, 0))
        stop = at if kind == "insert" else at + len(content)
        broken[at:stop] = b"" if kind == "cut" else content
    return bytes(broken)


@pytest.mark.real
def test_real_files_with_broken_bytes_are_a_picture_or_a_reason(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "dicom"
    paths = sorted(p for p in folder.rglob("*.dcm") if p.stat().st_size < SMALL)
    assert len(paths) > 30
    sources = {path.name: path.read_bytes() for path in paths}
    with Decoder(timeout=30, memory=1 << 30) as decoder:

        @settings(
            max_examples=600,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(
            name=st.sampled_from(sorted(sources)),
            changes=CHANGES,
            norm=st.sampled_from(["mimic", "window", "minmax", "dicom"]),
            decode=st.sampled_from(["exact", "fast"]),
        )
        def check(
            name: str, changes: list[tuple[str, float, bytes]], norm: str, decode: str
        ) -> None:
            path = tmp_path / "broken.dcm"
            path.write_bytes(mutated(sources[name], changes))
            options = PixelOptions(size=64, norm=norm, decode=decode, any_modality=True)
            try:
                picture = decoder.convert(path, options)
            except Reject as reject:
                assert reject.reason in REASONS and reject.reason != "decoder_timeout"
            else:
                shown = gray_of(picture.png)
                assert shown.shape == (64, 64) and np.ptp(shown) > 0

        check()
