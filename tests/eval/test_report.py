"""The report of a run: the numbers of its evaluations, self-contained, and fit to be shared."""

import json
import re
import shlex
import shutil
import stat
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from imitate.cli import app
from imitate.contract import Folders, InputError, UsageError
from imitate.eval.report.curves import answer_plots, head_plots, label_plots, learning_plots
from imitate.eval.report.opened import Opened, RunFolder
from imitate.eval.report.sharing import shared
from imitate.eval.report.written import write_reports, write_run_report
from imitate.files import read_json, write_json, write_text
from imitate.shards.manifest import ShardSet

SET = "phantom-rsna"
ASKED = ("--fraction", "0.3", "--fraction", "1")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def evaluated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("evaluated") / "root"))
    lines = [
        {"step": n, "samples": 8 * n, "loss": 3 / n, "lr": 0.1} | validated(n) for n in range(1, 9)
    ]
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(Folders(root).run("run") / "metrics.jsonl", metrics)
    told = json.loads(call("eval", SET, "--root", root, "--quiet", "--json", *ASKED).stdout)
    assert told["reports"] == [str(Folders(root).run("run") / "report.html")]
    return root


def validated(step: int) -> dict[str, float]:
    return {} if step % 4 else {"validate/loss": 0.5, "validate/impression/pair/r@10": 0.25}


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Folders(Path(shutil.copytree(evaluated, tmp_path / "root"))).run("run")


def results(run: Path) -> Path:
    return run / "eval" / SET / "results.json"


def opened(run: Path) -> Opened:
    return RunFolder.open(run).evaluations[0]


class Parsed(HTMLParser):
    """Tables as rows of texts with the head before them, headers, and folds' and tables' words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.titles: list[str] = []
        self.words: list[str] = []  # the caption or summary above each table
        self._text: list[str] | None = None
        self._above = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
            self.words.append(self._above)
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th", "h1", "h2", "h3", "caption", "summary", "title"):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if self._text is None or tag == "span":
            return
        text = "".join(self._text).strip()
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)
        elif tag == "caption":
            self.words[-1] = text
        elif tag == "summary":
            self._above = text
        elif tag in ("h1", "h2", "h3", "title"):
            self.titles.append(text)
        self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)


def cells(parsed: Parsed) -> dict[tuple[str, str, str, str, str], str]:
    """Cells of the tables of tasks by what they begin with, label, metric and encoder."""
    found = {}
    for words, (head, *lines) in zip(parsed.words, parsed.tables, strict=True):
        if head[:2] == ["label", "metric"]:
            task, share = re.match(r"(\S+), (no|[\d.]+ %)", words).groups()  # type: ignore[union-attr]
            for line in lines:
                for encoder, text in zip(head[2:-3], line[2:-3], strict=True):
                    found[(task, share, line[0], line[1], encoder)] = text
    return found


def test_every_number_of_the_results_is_in_the_page(run: Path) -> None:
    found = cells(Parsed((run / "report.html").read_text()))
    rows = read_json(results(run))["rows"]
    shown = set()
    for row in rows:
        share = f"{100 * row['fraction']:.4g} %" if row["fraction"] else "no"
        place = (row["task"], share, row["label"], row["metric"], row["encoder"])
        if row["value"] is None:
            text = "–"
        elif row["ci_low"] is None:
            text = f"{row['value']:.3f}"
        else:
            text = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        assert found[place].replace("\N{NO-BREAK SPACE}", " ") == text, place
        shown.add(place)
    assert set(found) == shown
    assert {place[4] for place in shown} == {"run", "random", "no-pixels"}


def test_comparisons_slices_and_counts_stand_in_the_page(run: Path) -> None:
    html = (run / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    known = read_json(results(run).with_name("statistics.json"))
    assert known["comparisons"]
    for row in known["comparisons"]:
        assert f"{row['encoder']} − {row['other']}" in html
        assert f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]" in html
    macro = next(row for row in read_json(results(run))["rows"] if row["label"] == "macro")
    assert f'class="n">{macro["n"]}<' in html


def area(points: Any) -> float:
    x, y = np.array(points).T
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def test_areas_below_the_curves_are_the_measured_numbers(run: Path) -> None:
    (plots,) = answer_plots(opened(run), "linear", shareable=False)
    for plot, metric in zip(plots.plots, ("auroc", "auprc"), strict=False):
        measured = {
            row["label"]: row["value"]
            for row in opened(run).rows
            if (row["task"], row["encoder"], row["metric"]) == ("linear", "run", metric)
            and row["fraction"] == 1
        }
        curves = [curve for curve in plot.curves if curve.look != "guide"]
        assert {curve.name for curve in curves} == {"Pneumonia", "Edema"}
        for curve in curves:
            assert area(curve.points) == pytest.approx(measured[curve.name], abs=1e-9)
    for curve in plots.plots[1].curves:  # a step up or down at most at each recall
        recalls = [recall for recall, _ in curve.points]
        assert recalls == sorted(recalls) and max(map(recalls.count, recalls)) <= 2


def test_the_bins_of_the_calibration_hold_ten_films_at_least(run: Path) -> None:
    films = len(opened(run).kept.answered[0][1].keys)
    (plots,) = answer_plots(opened(run), "linear", shareable=False)
    for curve in plots.plots[2].curves:
        if curve.look != "guide":
            assert 1 <= len(curve.points) <= max(1, films // 10)


def test_labels_learned_from_and_steps_become_curves(run: Path) -> None:
    (plots,) = label_plots(opened(run), "linear")
    curve = next(curve for curve in plots.plots[0].curves if curve.name == "run")
    rows = [
        row
        for row in opened(run).rows
        if (row["task"], row["encoder"], row["label"]) == ("linear", "run", "macro")
        and row["metric"] == "auroc"
    ]
    assert [y for _, y in curve.points] == [row["value"] for row in rows]
    assert [bar[1:] for bar in curve.bars] == [(row["ci_low"], row["ci_high"]) for row in rows]
    assert not list(label_plots(opened(run), "zeroshot"))
    (learned,) = learning_plots(RunFolder.open(run).metrics)
    assert [plot.title for plot in learned.plots] == [
        *("Loss", "Retrieval on validation", "Learning rate")
    ]
    loss, measured = learned.plots[0].curves
    assert loss.points == tuple((8.0 * n, 3 / n) for n in range(1, 9))
    assert measured.points == ((32.0, 0.5), (64.0, 0.5))


def test_the_page_needs_nothing_else(run: Path) -> None:
    html = (run / "report.html").read_text()
    assert "default-src 'none'" in html and "<script" not in html
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", html)
    sources = re.findall(r'src="([^"]*)"', html)
    assert sources and all(uri.startswith("data:image/") for uri in sources)
    assert "<polyline" in html


def test_phantom_is_said_in_every_title(run: Path) -> None:
    titles = Parsed((run / "report.html").read_text()).titles
    assert len(titles) > 5
    assert all("phantom" in title for title in titles)
    document = read_json(results(run))
    write_json(results(run), document | {"phantom": False, "dataset": "rsna"})
    html = write_run_report(run).read_text()
    assert "synthetic" not in html and 'class="tag">phantom' not in html


def test_equal_runs_are_equal_bytes_wherever_they_lie(evaluated: Path, run: Path) -> None:
    first = (Folders(evaluated).run("run") / "report.html").read_bytes()
    assert write_run_report(run).read_bytes() == first
    assert str(run.parents[1]).encode() not in first


def test_a_shareable_page_holds_no_film_and_no_id(run: Path) -> None:
    document = read_json(results(run))
    write_json(results(run), document | {"notes": ["film-001 of Doe"], "access": "credentialed"})
    call("report", run)
    call("report", run, "--shareable")
    private, shared = ((run / f"report{name}.html") for name in ("", "-shareable"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "RESTRICTED" in private.read_text() and "of Doe" in private.read_text()
    html = shared.read_text()
    keys = ShardSet.open(Folders(run.parents[1]).shards(SET)).column("key")
    assert any(str(key) in private.read_text() for key in keys)
    assert not any(str(key) in html for key in keys)
    assert "<img" not in html and "of Doe" not in html and "RESTRICTED" in html
    counts = re.findall(r'<td class="n">([^<]*)<', html)
    assert all(re.fullmatch(r"0|–|&lt;10|[\d,]*0", count) for count in counts)
    assert not re.search(r"film-\d", html)


@pytest.mark.parametrize(
    ("positives", "told"),
    [
        ({"Edema": 20, "Pneumonia": 20}, {"Edema", "Pneumonia", "macro"}),
        ({"Edema": 9, "Pneumonia": 20}, {"Pneumonia"}),  # or it would follow from the mean
        ({"Edema": 31, "Pneumonia": 20}, {"Pneumonia"}),  # 9 of 40 are negative
        ({"Edema": 9, "Pneumonia": 8}, {"macro"}),
        ({"Edema": 40, "Pneumonia": 20}, {"Edema", "Pneumonia", "macro"}),
    ],
)
def test_numbers_that_would_tell_few_cases_are_not_shared(
    run: Path, positives: dict[str, int], told: set[str]
) -> None:
    document = read_json(results(run))
    rows = [
        row | {"n": 40, "n_pos": positives.get(row["label"])}
        for row in document["rows"]
        if row["label"] in ("macro", *positives) and row["metric"] == "auroc"
    ]
    write_json(results(run), document | {"rows": rows})
    path = results(run).with_name("statistics.json")
    means = [row | {"repeats": 2, "sd": 0.1} for row in rows if row["label"] == "macro"]
    write_json(path, read_json(path) | {"summary": means})
    page = shared(opened(run))
    assert {row["label"] for row in page.rows if row["value"] is not None} == told
    joined = [row["value"] for row in page.statistics["summary"]]
    compared = [row for row in page.statistics["comparisons"] if row["metric"] == "auroc"]
    assert joined and compared
    for row in compared:
        assert (row["difference"] is None) == (row["p"] is None) == ("macro" not in told)
    assert all((value is None) == ("macro" not in told) for value in joined)
    assert all(row["value"] is not None for row in opened(run).rows)


def test_fine_curves_are_not_shared(run: Path) -> None:
    (fine,) = answer_plots(opened(run), "linear", shareable=False)
    coarse = list(answer_plots(opened(run), "linear", shareable=True))
    assert len(fine.plots[0].curves[0].points) >= len(coarse[0].plots[0].curves[0].points)
    assert all(len(curve.points) <= 20 for curve in coarse[0].plots[0].curves)


def test_the_main_numbers_of_all_tasks_come_first(run: Path) -> None:
    page = Parsed((run / "report.html").read_text())
    head, *lines = next(table for table in page.tables if table[0][0] == "test set")
    assert head[4:] == ["encoder", "random", "no-pixels", "films"]
    told = {
        (task, share): dict(zip(head[4:], rest, strict=True)) for _, task, share, _, *rest in lines
    }
    assert set(told) == {("zeroshot", "–"), ("linear", "30 %"), ("linear", "100 %")}
    for row in read_json(results(run))["rows"]:
        if (row["metric"], row["label"]) == ("auroc", "macro"):
            share = f"{100 * row['fraction']:.4g} %" if row["fraction"] else "–"
            name = "encoder" if row["encoder"] == "run" else row["encoder"]
            number = told[(row["task"], share)][name]
            assert number.startswith(f"{row['value']:.3f}")


def test_the_contents_name_every_task_and_lead_to_it(run: Path) -> None:
    html = (run / "report.html").read_text()
    links = re.findall(r'href="#([^"]*)"', html.split("<nav>")[1].split("</nav>")[0])
    assert all(html.count(f'id="{link}"') == 1 for link in links)
    section = f"{SET}-"
    assert {link.removeprefix(section) for link in links if link.startswith(section)} == {
        *("zeroshot", "linear", "comparisons")
    }


def test_a_task_without_any_number_says_so_instead_of_a_table_of_dashes(run: Path) -> None:
    document = read_json(results(run))
    empty = {"value": None, "ci_low": None, "ci_high": None, "n": 0, "threshold_source": None}
    rows = [row | empty if row["task"] == "zeroshot" else row for row in document["rows"]]
    write_json(results(run), document | {"rows": rows})
    html = write_run_report(run).read_text()
    assert "zeroshot, no training labels: no number, the test split has too few cases." in html
    assert not any(
        words.startswith("zeroshot, no training labels; ") for words in Parsed(html).words
    )


def test_comparisons_of_other_encoders_are_folded_and_their_runs_are_named(run: Path) -> None:
    path = results(run).with_name("statistics.json")
    known = read_json(path)
    pair = known["comparisons"][0]
    others = [pair | {"encoder": "b", "other": "c", "difference": 0.125}]
    known |= {"comparisons": [*known["comparisons"], *others], "company": ["b", "run"]}
    write_json(path, known)
    html = write_run_report(run).read_text()
    own, folded = html.split("Comparisons between the other encoders of the call")
    assert "b − c" in folded and "b − c" not in own
    assert f"{pair['encoder']} − {pair['other']}" in own
    assert f"of the call: {len(known['comparisons'])}." in own
    assert f"imitate eval {SET} --run b --run run --task" in html


def test_the_prompts_of_a_task_stand_in_the_page(run: Path) -> None:
    told = next(told for told in read_json(results(run))["cells"] if "prompts" in told)
    html = (run / "report.html").read_text()
    head = ["label", "prompts for presence", "prompts for absence"]
    (table,) = (table for table in Parsed(html).tables if table[0] == head)
    for label, present, absent in table[1:]:
        pair = told["prompts"][label]
        assert (present, absent) == ("; ".join(pair["positive"]), "; ".join(pair["negative"]))


def test_wrong_films_are_those_that_were_answered_wrongly(run: Path) -> None:
    html = (run / "report.html").read_text()
    sheets = re.split(r"<h3>", html)[1:]
    missed = next(s for s in sheets if s.startswith("linear: missed"))
    answers = {
        (key, label): (answers.targets[i, j], answers.scores[i, j], answers.settled[j].threshold)
        for cell, answers in opened(run).kept.answered
        if (cell["task"], cell["encoder"], cell["fraction"]) == ("linear", "run", 1.0)
        for i, key in enumerate(answers.keys)
        for j, label in enumerate(answers.labels)
    }
    told = re.findall(
        r"<div>(film-\d+)</div>"
        r"<div>(\w+): present, probability ([\d.]+), threshold ([\d.]+)</div>",
        missed,
    )
    assert told
    for key, label, probability, limit in told:
        target, score, threshold = answers[(key, label)]
        assert target == 1 and score < threshold
        assert float(probability) == pytest.approx(score, abs=6e-4)
        assert float(limit) == pytest.approx(threshold, abs=6e-4)
    assert [float(p) for *_, p, _ in told] == sorted(float(p) for *_, p, _ in told)


def test_without_its_shards_a_run_still_has_a_report(run: Path) -> None:
    shutil.rmtree(Folders(run.parents[1]).shards(SET))
    html = write_run_report(run).read_text()
    assert "not here any more" in html
    wrong = [part for part in html.split("<h3>") if part.startswith(("zeroshot: ", "linear: "))]
    assert all("<img" not in part for part in wrong)


def test_the_commands_of_the_page_make_the_same_results(run: Path) -> None:
    html = (run / "report.html").read_text()
    before = results(run).read_bytes()
    lines = re.findall(r'<p class="code">(imitate eval [^<]*)</p>', html)
    assert lines and all("--run run" in line for line in lines)
    for line in lines:
        call(*shlex.split(line)[1:], "--root", run.parents[1], "--quiet")
    assert results(run).read_bytes() == before
    asked = " ".join(lines)
    assert "--task zeroshot" in asked and "--fraction 0.3 --fraction 1" in asked


def with_overlays(run: Path) -> str:
    """Add a cell of segmentation by hand, whose training would take too long here."""
    document = read_json(results(run))
    cell = document["cells"][0]["cell"] | {"task": "segment", "fraction": 1.0}
    told = {"cell": cell, "overlays": [["film-003", "Dice 0.75"]]}
    told |= {"losses": [3.0, 2.0], "judged": [2.5, 2.4], "lr": 0.001, "best_epoch": 2}
    number = document["rows"][0] | {"task": "segment", "fraction": 1.0, "label": "region"}
    number |= {"metric": "dice", "value": 0.625, "ci_low": 0.5, "ci_high": 0.75}
    document |= {"cells": [*document["cells"], told], "rows": [*document["rows"], number]}
    write_json(results(run), document)
    folder = results(run).with_name("segment") / "own-segment-1.0-0-0"
    folder.mkdir(parents=True)
    assert cv2.imwrite(str(folder / "film-003.png"), np.full((16, 16, 3), 90, np.uint8))
    return "Dice 0.75"


def remarks(run: Path) -> str:
    return write_run_report(run).read_text().split("Worth a look")[2].split("</section>")[0]


def test_what_must_be_known_before_a_number_comes_first(run: Path) -> None:
    assert "is not measured" in remarks(run)  # the set that it was trained on is not there
    document = read_json(results(run))
    seen = document["overlap"] | {"subjects": 3, "pictures": 1234}
    write_json(results(run), document | {"overlap": seen, "damaged": ["film-009"]})
    told = remarks(run)
    assert "share 3 patients and 1,234 pictures" in told and "left out: 1." in told
    assert "film-009" not in told


def test_overlays_and_the_training_of_a_head_are_shown(run: Path) -> None:
    dice = with_overlays(run)
    html = write_run_report(run).read_text()
    tinted = html.split("<h3>zeroshot, tinted")[1].split("<h3>")[0]
    assert tinted.count("data:image/jpeg") >= 2 and "Pneumonia: present, score 0." in tinted
    sheet = html.split("<h3>segment, ")[1].split("<h3>")[0]
    assert "data:image/jpeg" in sheet and dice in sheet and "film-003" in sheet
    assert "0.625" in html
    (plots,) = head_plots(opened(run), "segment")
    assert plots.plots[0].title.endswith("learning rate 0.001, best epoch 2")
    assert [curve.points for curve in plots.plots[0].curves] == [
        ((1, 3.0), (2, 2.0)),
        ((1, 2.5), (2, 2.4)),
    ]


def hole_in_results(run: Path) -> None:
    document = read_json(results(run))
    write_json(results(run), {k: v for k, v in document.items() if k != "rows"})


def half_a_card(run: Path) -> None:
    write_text(run / "card.json", "{")


@pytest.mark.parametrize("change", [hole_in_results, half_a_card])
def test_a_damaged_run_is_named(run: Path, change: Callable[[Path], None]) -> None:
    change(run)
    with pytest.raises(InputError):
        write_run_report(run)


def test_an_evaluation_of_an_earlier_version_stops_no_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(results(run).parent, run / "eval" / "another")
    other = run / "eval" / "another" / "results.json"
    document = read_json(other)
    write_json(other, {name: value for name, value in document.items() if name != "overlap"})
    assert write_reports([results(run).parent]) == []
    assert "overlap" in capsys.readouterr().err
    with pytest.raises(InputError):
        write_run_report(run)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_run_report(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("name: demo")
    for words, says in (
        ([str(tmp_path)], "neither a finished prepared set nor a run"),
        ([str(tmp_path / "run"), "--out", str(tmp_path)], "--out is a folder"),
    ):
        error = CliRunner().invoke(app, ["report", *words]).exception
        assert isinstance(error, UsageError) and says in str(error)


def test_a_run_that_was_not_evaluated_has_its_curves(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "eval")
    out = tmp_path / "page.html"
    call("report", run, "--out", out)
    assert "Not evaluated yet" in out.read_text() and "Learning rate" in out.read_text()


def test_weights_from_elsewhere_have_a_report_too(evaluated: Path, weights: Path) -> None:
    encoder = f"{weights},size=16,resize=16,norm=half"
    result = call("eval", SET, "--root", evaluated, "--task", "linear", "--encoder", encoder)
    (page,) = (evaluated / "runs").glob("encoder-net-*/report.html")
    assert f"look at it: {page}" in result.stdout
    html = page.read_text()
    (line,) = re.findall(r'<p class="code">(imitate eval [^<]*)</p>', html)
    assert f"imitate eval {SET} --encoder PATH,size=16,resize=16," in line
    words = shlex.split(line.replace("PATH", str(weights)))[1:]
    before = (page.parent / "eval" / SET / "results.json").read_bytes()
    call(*words, "--root", evaluated, "--quiet", "--no-resume")
    assert (page.parent / "eval" / SET / "results.json").read_bytes() == before
    assert "imitate train" not in html and "Learning rate" not in html
