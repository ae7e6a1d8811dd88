"""Several processes are one: the same losses, gradients and weights, and one end (design.md 10)."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys

import pytest
import torch

from imitate.contract import ConfigError, Exit, ImitateError
from imitate.train.bound import TrainOptions
from imitate.train.checkpoint import Checkpoints
from imitate.train.distribution import group
from imitate.train.distribution.shares import check_shares
from imitate.train.logbook import TIMED, read_metrics
from imitate.train.objective.task import PretrainTask
from imitate.train.recipes.recipe import load_recipe, preset_settings
from imitate.train.run import train

QUIET = TrainOptions(quiet=True, device="cpu")
MINUTE = 60


@pytest.fixture(scope="module")
def settings(tiny_settings):
    """All terms, a ResNet with grouped norms, and every checkpoint kept; 5 steps an epoch."""
    return (
        *tiny_settings,
        "model.image.size=24",
        "model.image.resize=24",
        "data.batch=24",
        "model.norm_group=4",
        "loss.terms=[impression, findings, vision_impression, vision_findings]",
        "optim.epochs=1",
        "checkpoint.every_steps=1",
        "checkpoint.keep=9",
        "optim.lr=1e-5",  # the moments then hold gradients of nearly the same weights
        "optim.eps=1e-3",  # and rounding in parameters without a gradient moves nothing
        "validate.every_steps=0",
    )


@pytest.fixture(scope="module")
def recipe(settings):
    return load_recipe("demo", settings)


@pytest.fixture(scope="module")
def root(make_set, tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    make_set(root, "many", count=120)
    return root


def act_at(step, act):
    """Do something real while the losses of a step are computed, in this process."""
    losses = PretrainTask.losses

    def acting(task, features, batch):
        if batch.step == step:
            act()
        return losses(task, features, batch)

    PretrainTask.losses = acting


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ImitateError("a rank fails of itself")


def stop_self():
    signal.raise_signal(signal.SIGINT)


def run_rank(rank, count, port, root, recipe, options, acting):
    """Train as one rank of several, with the environment that torchrun gives."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group.SILENT_S = 3.0  # a test need not wait for half a minute
    if acting is not None and acting[0] == rank:
        act_at(*acting[1:])
    try:
        train(root, recipe, options)
    except ImitateError as error:
        (root / f"said-{rank}").write_text(str(error))
        sys.exit(error.code)


@pytest.fixture(scope="module")
def processes():
    """Real processes that have torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imitate.train.run"])
    return context


def run_ranks(processes, count, root, recipe, acting=None, options=QUIET):
    """Train on so many ranks; return their exit codes, which must all come within a minute."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = [
        processes.Process(target=run_rank, args=(rank, count, port, root, recipe, options, acting))
        for rank in range(count)
    ]
    for process in running:
        process.start()
    try:
        for process in running:
            process.join(MINUTE)
        return [process.exitcode for process in running]
    finally:
        for process in running:
            process.kill()


@contextlib.contextmanager
def fresh(root):
    """Let the runs below a root begin anew, and be kept out of the way after."""
    try:
        yield
    finally:
        for number, run in enumerate(sorted((root / "runs").iterdir())):
            run.rename(root / f"kept-{len(list(root.iterdir()))}-{number}")


def found_in(root):
    """Return the metrics and the tensors of every checkpoint of the only run."""
    (run,) = (root / "runs").iterdir()
    rows = [
        {k: v for k, v in row.items() if k not in TIMED}
        for row in read_metrics(run / "metrics.jsonl")
    ]
    folder = Checkpoints(run / "checkpoints", every=1, keep=9)
    return rows, [folder.at(row["samples"]).tensors for row in rows]


@pytest.fixture(scope="module")
def alone(root, recipe):
    """What one process makes of the recipe."""
    with fresh(root):
        train(root, recipe, QUIET)
        return found_in(root)


def joined_vector(tensors, kind):
    """All tensors of a kind as one vector, in the order of their names."""
    return torch.cat([tensors[n].double().flatten() for n in sorted(tensors) if kind in n])


def assert_close(found, wanted, kind, tolerance, since=None):
    """Compare tensors of a kind, or how far they have moved since others, by their length."""
    found, wanted, *start = (
        joined_vector(tensors, kind) for tensors in (found, wanted, since) if tensors
    )
    length = (wanted - start[0] if start else wanted).norm()
    assert (found - wanted).norm() <= tolerance * length, kind


def assert_same(found, wanted):
    """Compare losses, gradients (through the moments of the first steps), statistics, weights.

    The model is so small that it magnifies rounding with every step.
    """
    (rows, tensors), (rows_wanted, tensors_wanted) = found, wanted
    assert len(rows) == len(rows_wanted) == 5
    for row, other, rel in zip(rows, rows_wanted, (1e-6, 1e-3, 1e-2, 1e-2, 1e-2), strict=True):
        assert row == pytest.approx(other, rel=rel)
    for one, other, rel in zip(tensors[:2], tensors_wanted[:2], (1e-5, 1e-2), strict=True):
        assert one.keys() == other.keys()
        assert_close(one, other, "exp_avg ", rel)
        assert_close(one, other, "running_", 1e-4)
    assert_close(tensors[-1], tensors_wanted[-1], "model ", 0.2, since=tensors_wanted[0])
    counts = {int(t) for n, t in tensors[-1].items() if "backbone" in n and n.endswith("_tracked")}
    assert counts == {len(rows)}  # the running statistics moved once a step


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_are_one_process(processes, root, recipe, alone, count):
    with fresh(root):
        assert run_ranks(processes, count, root, recipe) == [0] * count
        assert_same(found_in(root), alone)


@pytest.mark.parametrize("size", [4, 16])
def test_micro_batches_are_the_whole_batch(root, settings, alone, size):
    with fresh(root):
        train(root, load_recipe("demo", (*settings, f"optim.micro_batch={size}")), QUIET)
        assert_same(found_in(root), alone)


def test_micro_batches_on_ranks_are_the_whole_batch(processes, root, settings, alone):
    micro = load_recipe("demo", (*settings, "optim.micro_batch=4"))
    with fresh(root):
        assert run_ranks(processes, 2, root, micro) == [0, 0]
        assert_same(found_in(root), alone)


def test_a_run_goes_on_with_other_ranks_and_micro_batches(processes, root, settings, alone):
    micro = load_recipe("demo", (*settings, "optim.micro_batch=4"))
    with fresh(root):
        # the signal comes to one rank, and both stop at that step
        codes = run_ranks(processes, 2, root, micro, acting=(1, 1, stop_self))
        assert codes == [Exit.INTERRUPTED] * 2
        assert [row["step"] for row in found_in(root)[0]] == [1, 2]
        whole = load_recipe("demo", settings)
        assert run_ranks(processes, 1, root, whole, acting=(0, 3, stop_self)) == [Exit.INTERRUPTED]
        assert len(found_in(root)[0]) == 4
        assert run_ranks(processes, 3, root, whole) == [0, 0, 0]
        assert_same(found_in(root), alone)
        log = next((root / "runs").iterdir()) / "log.txt"
        assert "ranks 2 before, 1 now" in log.read_text()


def test_ranks_stopped_and_resumed_are_never_having_stopped(processes, root, recipe, lasting_part):
    with fresh(root):
        assert run_ranks(processes, 2, root, recipe) == [0, 0]
        wanted = lasting_part(next((root / "runs").iterdir()))
    with fresh(root):
        codes = run_ranks(processes, 2, root, recipe, acting=(0, 2, stop_self))
        assert codes == [Exit.INTERRUPTED] * 2
        assert run_ranks(processes, 2, root, recipe) == [0, 0]
        assert lasting_part(next((root / "runs").iterdir())) == wanted


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_others(processes, root, recipe, alone, lost):
    with fresh(root):
        codes = run_ranks(processes, 2, root, recipe, acting=(lost, 2, kill_self))
        assert codes[lost] == -signal.SIGKILL
        assert codes[1 - lost] == Exit.TERMINATED  # and not None: it has ended by itself
        train(root, recipe, QUIET)  # and the run goes on from its last checkpoint
        assert_same(found_in(root), alone)


def test_a_rank_that_fails_ends_the_others_with_its_reason(processes, root, recipe):
    with fresh(root):
        codes = run_ranks(processes, 2, root, recipe, acting=(1, 1, fail))
        assert codes == [Exit.DEFECT] * 2
        assert "rank 1 ended first: a rank fails of itself" in (root / "said-0").read_text()


def test_a_batch_that_cannot_be_shared_is_refused_by_all(processes, root, recipe):
    with fresh(root):
        (root / "runs").mkdir(exist_ok=True)
        assert run_ranks(processes, 5, root, recipe) == [Exit.USAGE] * 5
        assert not list((root / "runs").iterdir())


@pytest.mark.parametrize(
    ("settings", "ranks", "told"),
    [
        (("data.batch=10",), 3, "data.batch 10 cannot be shared evenly by 3 ranks"),
        (("data.batch=64", "model.norm_group=32"), 4, "whole groups of model.norm_group 32"),
        (("data.batch=8",), 2, "whole groups of model.norm_group 16"),  # one group, cut in two
    ],
)
def test_shares_hold_whole_groups(settings, ranks, told):
    norm = () if "group" in told else ("model.norm=frozen",)
    with pytest.raises(ConfigError) as caught:
        check_shares(load_recipe("demo", (*settings, *norm)), ranks)
    assert told in str(caught.value)
    sizes = caught.value.todo.split(": ")[1].split(";")[0].split(" or ")
    for size in sizes:
        works = (*settings, f"data.batch={size}", *norm)
        check_shares(load_recipe("demo", works), ranks)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("model.norm=local", "needs model.norm grouped or frozen"),
        ("optim.micro_batch=24", "must be a multiple of model.norm_group 16"),
    ],
)
def test_micro_batches_that_would_change_the_loss_are_refused(setting, told):
    with pytest.raises(ConfigError, match=told):
        load_recipe("demo", ("optim.micro_batch=32", setting))


@pytest.mark.parametrize("name", ["1x24GB", "8x80GB"])
def test_presets_change_neither_batch_nor_run(name):
    plain, preset = (load_recipe("imitate", s) for s in ((), preset_settings(name)))
    assert preset.optim != plain.optim
    assert (preset.data, preset.loss, preset.digest) == (plain.data, plain.loss, plain.digest)
    check_shares(preset, 8)
