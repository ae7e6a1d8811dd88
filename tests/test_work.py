"""Pool, ledger, progress, interrupts: with real processes and signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imitate.contract import Stopped, UsageError
from imitate.work import Interrupts, Ledger, Progress, alone, run_tasks, save_chunk


def square(number: int) -> int:
    return number * number


def die_once(task: tuple[int, str]) -> int:
    """Kill the worker at the first try of task 3."""
    number, folder = task
    mark = Path(folder) / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_one_worker_works_here_and_in_order() -> None:
    assert list(run_tasks(square, [1, 2, 3])) == [1, 4, 9]


CLUSTER = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_work import die_once, square
from imitate.work import run_tasks
if __name__ == "__main__":
    assert sorted(run_tasks(square, list(range(20)), workers=2)) == [n * n for n in range(20)]
    tasks = [(n, {tmp!r}) for n in range(6)]
    assert sorted(run_tasks(die_once, tasks, workers=2)) == list(range(6))
    assert Path({tmp!r}, "died").exists()
"""


def test_a_cluster_does_every_task_though_a_worker_dies(tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER.format(folder=str(Path(__file__).parent), tmp=str(tmp_path)))
    subprocess.run([sys.executable, str(script)], check=True, timeout=120)


def test_no_scheduler_at_that_address_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no Dask scheduler"):
        list(run_tasks(square, [1], scheduler="not-an-address://nowhere"))


def test_a_signal_is_noted_and_raised_between_tasks() -> None:
    done = []
    with Interrupts() as interrupts:
        with pytest.raises(Stopped) as caught:
            for result in run_tasks(square, [1, 2, 3], interrupts=interrupts):
                done.append(result)
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
        assert caught.value.code == 143
    assert done == [1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_warning_of_a_batch_system_stops_however_often_it_comes() -> None:
    with Interrupts() as interrupts:
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Stopped) as caught:
            interrupts.check()
    assert (caught.value.code, caught.value.warned) == (143, True)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped) as caught:
            interrupts.check()
    assert not caught.value.warned


def test_second_interrupt_ends_the_process_at_once() -> None:
    code = (
        "import os, signal\n"
        "from imitate.work import Interrupts\n"
        "with Interrupts():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    raise SystemExit(0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 130


def test_ledger_keeps_chunks_of_the_same_plan_and_forgets_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "parts", {"size": 256})
    assert not ledger.has(7)
    save_chunk(ledger.path(7), {"rows": [1]})
    again = Ledger(tmp_path / "parts", {"size": 256})
    assert again.has(7) and again.load(7) == {"rows": [1]}
    other = Ledger(tmp_path / "parts", {"size": 512})
    assert not other.has(7)
    other.clear()
    assert not (tmp_path / "parts").exists()


def test_progress_lines_say_count_rate_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pictures", 10, "lines") as progress:
        progress.start_at(4)
        progress.advance(6, note="1 rejected")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pictures 10/10, ")
    assert captured.err.endswith("1 rejected\n")


def test_progress_says_the_end_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imitate.work.LINE_EVERY_S", 0.0)
    with Progress("pictures", 2, "lines") as progress:
        progress.advance()
        progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["pictures 1/2", "pictures 2/2"]


def test_progress_none_is_silent_and_unknown_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress("pictures", 1, "none") as progress:
        progress.advance()
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="auto, bar, lines, none"):
        Progress("pictures", 1, "loud")


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    other = (
        "from pathlib import Path\nfrom imitate.work import alone\n"
        f"with alone(Path({str(folder)!r}), 'writing'):\n    pass\n"
    )
    with alone(folder, "writing"):
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert done.returncode == 1 and "another process is writing" in done.stderr
    subprocess.run([sys.executable, "-c", other], check=True)
