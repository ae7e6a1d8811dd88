"""Zero-shot grounding: places against the pooled vector, numbers against loops, found boxes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imitate.contract import Folders, Stopped
from imitate.eval.encoders.encoder import Encoder, OurModel
from imitate.eval.grounding.numbers import grounding_rows
from imitate.eval.grounding.places import Places, share_of, spread, tinted
from imitate.eval.masks import Overlaps, dice_of, iou_of, predicted_region
from imitate.eval.statistics.recompute import recompute
from imitate.eval.table import Cell
from imitate.eval.tasks.ground import Ground, peak_of
from imitate.eval.tasks.task import EvalOptions, Found, Work
from imitate.eval.testset import TestSet, open_testset
from imitate.files import blake3_hex, read_json, read_rows, write_table
from imitate.schema import MANIFEST, REGIONS
from imitate.shards.manifest import ShardSet
from imitate.shards.plan import ShardOptions
from imitate.shards.write import write_shards
from imitate.train.network.model import ImageConfig, prepare_images
from imitate.work import Interrupts

SIDE, CELL = 64, 8
SETTING = {"thresholds": ["validate", "fixed"]}
IMAGE = ImageConfig(size=SIDE, resize=SIDE, channels=1, mean=(0.5,), std=(0.25,))


def draw(row: dict[str, Any], number: int, folder: Path) -> dict[str, Any]:
    """Make a row's film dark noise, every second with a bright box."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (SIDE, SIDE)).astype(np.uint8)
    boxes = []
    if number % 2:
        x, y = (int(place) * CELL for place in rng.integers(0, 5, 2))
        pixels[y : y + 24, x : x + 24] += 160
        boxes = [{"x": float(x), "y": float(y), "w": 24.0, "h": 24.0, "label": "Pneumonia"}]
    png = cv2.imencode(".png", pixels)[1].tobytes()
    (folder / row["image"]).write_bytes(png)
    sides = dict.fromkeys(("height", "width", "source_height", "source_width"), SIDE)
    hashes = {"png_blake3": blake3_hex(png), "pixel_blake3": blake3_hex(pixels.tobytes())}
    return row | sides | hashes | {"boxes": boxes, "labels": {"Pneumonia": float(number % 2)}}


@pytest.fixture(scope="module")
def boxed(
    tmp_path_factory: pytest.TempPathFactory,
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
) -> Path:
    root = make_set(tmp_path_factory.mktemp("boxed"), n=80, view="PA")
    folder = Folders(root).prepared("phantom-rsna")
    rows = read_rows(folder / "manifest.parquet", MANIFEST)
    drawn = [draw(dict(row), number, folder) for number, row in enumerate(rows)]
    write_table(folder / "manifest.parquet", MANIFEST, drawn)
    write_shards(root, "phantom-rsna", ShardOptions(samples=30))
    make_run(root)
    return root


@pytest.fixture(scope="module")
def tests(boxed: Path) -> TestSet:
    return open_testset(ShardSet.open(Folders(boxed).shards("phantom-rsna")))


def brightness(*, sign: float = 1.0) -> Encoder:
    """An encoder whose places point towards presence where they are bright."""

    def places(picture_BHW: torch.Tensor) -> np.ndarray:
        bright_Bhw = F.avg_pool2d(picture_BHW[:, None] / 255, CELL)[:, 0]
        angle_Bhw = sign * (bright_Bhw - 0.4)
        return torch.stack([torch.cos(angle_Bhw), torch.sin(angle_Bhw)], dim=-1).numpy()

    def texts(texts: Sequence[str]) -> np.ndarray:
        absent = [text.startswith("No") or "clear" in text for text in texts]
        return np.array([[0.6, -0.8] if no else [0.6, 0.8] for no in absent])

    nothing: Any = None
    return Encoder(
        features=nothing, network=nothing, image=IMAGE, embed_texts=texts, embed_places=places
    )


def work_of(tests: TestSet, folder: Path, encoder: Encoder, **over: Any) -> Work:
    cell = Cell(
        encoder="run",
        run_digest="d",
        pretrain_seed=3,
        task="ground",
        fraction=0.0,
        draw=0,
        head_seed=0,
    )
    pictures: Any = SimpleNamespace(encoder=encoder)
    known = {"cell": cell, "tests": tests, "pictures": pictures, "setting": SETTING}
    known |= {"options": EvalOptions(progress="none"), "device": torch.device("cpu")}
    known |= {"folder": folder, "interrupts": Interrupts()}
    return Work(**(known | over))


def value(found: Found, metric: str, source: str = "validate") -> float:
    (row,) = [r for r in found.rows if (r["metric"], r["threshold_source"]) == (metric, source)]
    return float(row["value"])


def test_bright_places_are_found_and_the_opposite_encoder_finds_none(
    tests: TestSet, tmp_path: Path
) -> None:
    found = Ground().do(work_of(tests, tmp_path, brightness()))
    assert value(found, "pointing") == 1.0 and value(found, "dice") > 0.85
    assert value(found, "iou") > 0.7 and value(found, "dice-all") > 0.85
    assert found.facts["thresholds"].keys() == {"validate", "fixed"}
    assert found.facts["thresholds"]["fixed"] == 0.0
    wrong = Ground().do(work_of(tests, tmp_path, brightness(sign=-1.0)))
    assert value(wrong, "pointing") == 0.0 and value(wrong, "dice") < 0.3


def test_numbers_follow_from_the_kept_regions(tests: TestSet, tmp_path: Path) -> None:
    found = Ground().do(work_of(tests, tmp_path, brightness()))
    ((table, rows),) = [(table, rows.to_pylist()) for table, rows in found.tables]
    assert table is REGIONS and len(rows) == 2 * len(tests.films["test"])
    own = [row for row in rows if row["threshold_source"] == "fixed"]
    marked = [row for row in own if row["target_pixels"]]
    assert 0 < len(marked) < len(own)
    for name, measure in (("dice", dice_of), ("iou", iou_of)):
        counts = ("target_pixels", "predicted_pixels", "common_pixels")
        each = [measure(*(np.array([row[c]]) for c in counts))[0] for row in marked]
        assert value(found, name, "fixed") == pytest.approx(np.mean(each))
    peaks = [row["peak"] for row in marked]
    assert value(found, "pointing", "fixed") == np.mean([peak == "centre" for peak in peaks])
    assert value(found, "recall", "fixed") == np.mean([peak != "outside" for peak in peaks])
    assert all(row["peak"] is None for row in own if not row["target_pixels"])
    for row in own:
        region_HW = predicted_region(row)
        assert region_HW.shape == (SIDE, SIDE) and region_HW.sum() == row["predicted_pixels"]


def test_films_are_tinted_and_outlined_for_the_report(tests: TestSet, tmp_path: Path) -> None:
    found = Ground().do(work_of(tests, tmp_path, brightness()))
    told = dict(found.facts["overlays"])
    assert 0 < len(told) <= 8 and set(found.files) == {f"{key}.png" for key in told}
    assert all(words.startswith("Dice ") for words in told.values())
    for data in found.files.values():
        image_HWC = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image_HWC.shape == (SIDE, SIDE, 3)
        assert (image_HWC[..., 0] != image_HWC[..., 1]).any()


def test_without_regions_in_validation_the_threshold_is_fixed(
    tests: TestSet, tmp_path: Path
) -> None:
    dark = [i for i in tests.films["validate"] if tests.shards.column("labels")[i]["Pneumonia"] < 1]
    films = {**tests.films, "validate": np.array(dark)}
    few = TestSet(**(tests.__dict__ | {"films": films}))
    found = Ground().do(work_of(few, tmp_path, brightness(), setting={"thresholds": ["validate"]}))
    assert found.facts["thresholds"] == {"fixed": 0.0}
    assert {row["threshold_source"] for row in found.rows} == {"fixed"}


def test_a_signal_ends_it(tests: TestSet, tmp_path: Path) -> None:
    interrupts = Interrupts()
    interrupts.signal = 2
    with pytest.raises(Stopped):
        Ground().do(work_of(tests, tmp_path, brightness(), interrupts=interrupts))


def test_sets_and_encoders_that_cannot_be_grounded_say_why(
    tests: TestSet, built: Path, boxed: Path
) -> None:
    source = OurModel(Folders(boxed).run("run") / "model", name="run", seed=3, access="open")
    assert source.embeds_places and Ground().why_not(source, tests) is None
    three = open_testset(ShardSet.open(Folders(built).shards("phantom-rsna")))
    assert "3 labels" in str(Ground().why_not(source, three))
    blind: Any = SimpleNamespace(embeds_places=False, name="net")
    assert "embeds no place" in str(Ground().why_not(blind, tests))
    masks = TestSet(**(tests.__dict__ | {"protocol": "benchx"}))
    assert "has a region" in str(Ground().why_not(source, masks))


def test_the_command_grounds_and_every_number_is_computed_again(boxed: Path) -> None:
    from imitate.cli import app

    asked = ["eval", "phantom-rsna", "--task", "ground", "--root", str(boxed), "--quiet"]
    app(asked, standalone_mode=False)
    folder = Folders(boxed).run("run") / "eval" / "phantom-rsna"
    document = read_json(folder / "results.json")
    assert {row["encoder"] for row in document["rows"]} == {"run", "random"}
    metrics = {row["metric"] for row in document["rows"]}
    assert metrics == {"pointing", "recall", "dice", "dice-all", "iou", "iou-all"}
    recount = recompute(folder)
    assert recount.differences == () and recount.left_out == () and recount.numbers > 10
    report = (Folders(boxed).run("run") / "report.html").read_text()
    assert "<h3>ground, its region green" in report


def test_places_of_a_picture_of_one_place_are_its_embedding(boxed: Path) -> None:
    from imitate.train.network.folder import load_model

    model = load_model(Folders(boxed).run("run") / "model").model
    image_BHW = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    assert model.embeds_places
    place_B11D = model.embed_places(image_BHW.float())
    assert place_B11D.shape == (3, 1, 1, 32)
    assert torch.allclose(place_B11D[:, 0, 0], model.embed_images(image_BHW), atol=1e-5)
    # each place of a larger picture has the head's embedding of its own vector
    large_BHW = torch.randint(0, 256, (2, 64, 64)).float()
    place_BhwD = model.embed_places(large_BHW)
    assert place_BhwD.shape == (2, 2, 2, 32)
    config = ImageConfig(**(model.config.image.__dict__ | {"size": 64, "resize": 64}))
    with torch.no_grad():
        map_BChw = model.backbone.eval()(prepare_images(large_BHW.byte(), config))["stage4"]
        model.eval()
        for film, top, left in ((0, 1, 0), (1, 0, 1)):
            vector_1C = map_BChw[film, :, top, left][None]
            (own_D,) = F.normalize(model.project("impression", vector_1C), dim=1)
            assert torch.allclose(place_BhwD[film, top, left], own_D, atol=1e-5)


def test_margins_are_differences_of_cosines(tests: TestSet) -> None:
    encoder = brightness()
    present, absent = np.array([[0.6, 0.8]]), np.array([[1.0, 0.0]])
    reader, rows = tests.reader(), tests.films["test"][:11]
    places = Places(encoder=encoder, reader=reader, ensembles=(present, absent), workers=1)
    batches = list(places.margins(rows))
    assert np.array_equal(np.concatenate([batch for batch, _ in batches]), rows)
    margin_B1hw = np.concatenate([margin for _, margin in batches])
    assert margin_B1hw.shape == (11, 1, SIDE // CELL, SIDE // CELL)
    picture_BHW = torch.from_numpy(reader.images(rows)).float()
    assert encoder.embed_places is not None
    place_BhwD = encoder.embed_places(picture_BHW)
    for film, row, column in ((0, 0, 0), (10, 3, 7)):
        place = place_BhwD[film, row, column]
        own = place @ present[0] - place @ absent[0]
        assert margin_B1hw[film, 0, row, column] == pytest.approx(own)


def test_places_are_spread_bilinearly_and_shares_stay_inside() -> None:
    margin_1hw = np.array([[[0.0, 1.0], [2.0, 3.0]]])
    (pixels_HW,) = spread(margin_1hw, (4, 4))
    by_cv2 = cv2.resize(margin_1hw[0], (4, 4), interpolation=cv2.INTER_LINEAR)
    assert pixels_HW == pytest.approx(by_cv2)
    assert share_of(np.array([-1.0, 0.0, 1.0, 9.0]), 0, 2).tolist() == [0, 0, 0.5, 1]
    assert share_of(np.array([3.0]), 2, 2).tolist() == [0]
    grey_HW = np.full((2, 2), 100, np.uint8)
    image_HWC = tinted(grey_HW, np.array([[0.0, 0.0], [0.0, 1.0]]))
    assert (image_HWC[0] == 100).all() and (image_HWC[1, 1] != 100).all()


def test_pointing_asks_for_the_centre_and_recall_for_a_part() -> None:
    margin_hw = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])  # place of rows 5-9, columns 8-11
    for at, said in (((7, 10), "centre"), ((5, 8), "part"), ((9, 11), "part"), ((4, 8), "outside")):
        target_HW = np.zeros((10, 12), dtype=bool)
        target_HW[at] = True
        assert peak_of(margin_hw, target_HW) == said
    odd_hw, target_HW = np.array([[1.0, 0.0, 0.0]]), np.zeros((4, 4), dtype=bool)
    target_HW[0, 1] = True  # the first of three places reaches into the second of four columns
    assert peak_of(odd_hw, target_HW) == "part"


def test_pointing_is_over_films_with_a_region_alone() -> None:
    peaks = ["centre", "centre", "part", "outside", "outside", "outside", None, None, None]
    rows = [
        {"key": f"k{i}", "subject_id": None, "batch": 0, "target_pixels": 5 * (peak is not None)}
        | {"predicted_pixels": 4, "common_pixels": 0, "peak": peak}
        for i, peak in enumerate(peaks)
    ]
    pointing, recall, *_ = grounding_rows(Overlaps.of(rows), seed=0)
    assert (pointing["metric"], pointing["value"]) == ("pointing", pytest.approx(2 / 6))
    assert (recall["metric"], recall["value"]) == ("recall", pytest.approx(3 / 6))
    assert (pointing["n"], pointing["n_pos"]) == (6, 6)
    assert pointing["ci_low"] <= pointing["value"] <= pointing["ci_high"]
    few, *_ = grounding_rows(Overlaps.of(rows[3:]), seed=0)
    assert few["value"] is None
