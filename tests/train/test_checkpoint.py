"""Checkpoints: exact, atomic, verified; the newest intact one is taken."""

import pytest
import torch
from torch import nn

from imitate.contract import ConfigError, InputError
from imitate.train.checkpoint import CheckpointConfig, Checkpoints, gather, restore

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7, dtype=torch.int64)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(folder, *positions, every=10, keep=2):
    checkpoints = Checkpoints(folder, every=every, keep=keep)
    for position in positions:
        checkpoints.save(position, {name: t + position for name, t in TENSORS.items()})
    return checkpoints


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    found = saved(tmp_path, 10).latest(pytest.fail)
    assert found.samples == 10
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name] + 10)


def test_equal_state_is_equal_bytes(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        saved(folder, 10)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_new_run_has_none(tmp_path):
    assert Checkpoints(tmp_path / "none", every=10, keep=2).latest(pytest.fail) is None


def test_the_last_are_kept(tmp_path):
    saved(tmp_path, 10, 20, 30, 40)
    stems = {path.stem for path in tmp_path.iterdir()}
    assert stems == {"samples-000000000030", "samples-000000000040"}
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("stop", [5, 25, 35, 39])
def test_an_interrupt_leaves_the_files_of_a_run_without_one(tmp_path, keep, stop):
    straight = [10, 20, 30, 40, 43]
    saved(tmp_path / "a", *straight, keep=keep)
    saved(tmp_path / "b", *sorted([*straight, stop]), keep=keep)
    assert names(tmp_path / "a") == names(tmp_path / "b")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, ending, damage):
    checkpoints = saved(tmp_path, 10, 20)
    damage(tmp_path / f"samples-000000000020{ending}")
    told = []
    assert checkpoints.latest(told.append).samples == 10
    assert len(told) == 1
    assert "samples-000000000020.json is damaged" in told[0]


def test_missing_tensors_are_damage_too(tmp_path):
    checkpoints = saved(tmp_path, 10, 20)
    (tmp_path / "samples-000000000020.safetensors").unlink()
    assert checkpoints.latest(lambda line: None).samples == 10


def test_without_any_intact_one_nothing_is_guessed(tmp_path):
    checkpoints = saved(tmp_path, 10)
    flip(tmp_path / "samples-000000000010.safetensors")
    with pytest.raises(InputError, match="no checkpoint of this run is intact"):
        checkpoints.latest(lambda line: None)


def test_half_written_files_are_never_read(tmp_path):
    checkpoints = saved(tmp_path, 10)
    (tmp_path / "samples-000000000020.safetensors").write_bytes(b"no mark yet")
    (tmp_path / ".partial-1-samples-000000000020.json").write_bytes(b"{}")
    assert checkpoints.latest(pytest.fail).samples == 10
    checkpoints.save(30, TENSORS)
    assert {path.stem for path in tmp_path.iterdir()} == {
        "samples-000000000010",
        "samples-000000000030",
    }


def trained(seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    for parameter in model.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    model[2].bias.requires_grad_(False)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(wanted, lr=0.1), generator


def train(model, optimizer, generator, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(8, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def test_a_model_and_its_optimizer_go_on_to_the_bit():
    model, optimizer, generator = trained(0)
    train(model, optimizer, generator, 3)
    tensors = {name: tensor.clone() for name, tensor in gather(model, optimizer).items()}
    other, other_optimizer, _ = trained(1)
    restore(other, other_optimizer, tensors)
    same = generator.clone_state()
    train(model, optimizer, generator, 3)
    train(other, other_optimizer, same, 3)
    after, other_after = gather(model, optimizer), gather(other, other_optimizer)
    assert after.keys() == other_after.keys()
    assert all(torch.equal(tensor, other_after[name]) for name, tensor in after.items())


def test_another_model_is_refused():
    model, optimizer, _ = trained(0)
    other = nn.Linear(4, 3)
    with pytest.raises(InputError, match="another model"):
        restore(other, torch.optim.AdamW(other.parameters()), gather(model, optimizer))


def test_config_is_checked_at_once():
    with pytest.raises(ConfigError) as caught:
        CheckpointConfig(every_steps=0, keep=0)
    assert len(caught.value.problems) == 2
