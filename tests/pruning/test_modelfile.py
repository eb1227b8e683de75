from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from bayesprune.errors import CheckpointError, ConfigError, FileError
from bayesprune.pruning import compact, load, read_run, save
from tests.pruning.forge import at, node, rewrite
from tests.pruning.nets import NETS
from tests.pruning.random_nets import random_network
from tests.pruning.verify import draw_thetas, snapshot, verify_unchanged


def verify_round_trip(net: nn.Module, x: Tensor, path: Path) -> nn.Module:
    """A file gives back the same tensors, modes and outputs; saving does not touch the network."""
    before, structure = snapshot(net), str(net)
    modes = {name: m.training for name, m in net.named_modules()}
    save(net, path)
    verify_unchanged(net, before, structure)
    assert modes == {name: m.training for name, m in net.named_modules()}
    again = load(path)
    after = again.state_dict()
    assert set(after) <= set(before)
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == before[name].dtype for name in after)
    assert all(m.training == modes[name] for name, m in again.named_modules() if name in modes)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net.eval()(x))
    assert os.listdir(path.parent) == [path.name]
    return again


DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize(("name", "dtype"), [*zip(NETS, DTYPES * 4, strict=False)])
def test_round_trip_of_compacted_networks(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    build, shape = NETS[name]
    net = build().to(dtype)
    draw_thetas(net, 1)
    x = torch.randn(3, *shape, dtype=dtype)
    verify_round_trip(compact(net).train(name != "lenet"), x, tmp_path / "net.safetensors")


@pytest.mark.parametrize("seed", range(10))
def test_round_trip_of_random_networks(seed: int, tmp_path: Path) -> None:
    net, shape = random_network(seed)
    draw_thetas(net, seed)
    verify_round_trip(compact(net), torch.randn(2, *shape), tmp_path / "net.safetensors")


class Plain(nn.Module):
    """An ungated user module with what files may hold beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.randn(8))
        self.register_buffer("shift", torch.randn(8))
        self.blocks = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.GroupNorm(5, 5)])
        self.up = nn.Upsample(scale_factor=2.0)
        self.conv = nn.ConvTranspose1d(5, 2, 3, stride=2, padding=1)

    def forward(self, x: Tensor, flag: bool = True) -> Tensor:
        x = self.norm(self.embed(x)) * self.scale + self.shift
        x = F.dropout(self.blocks[1](self.blocks[0](x)), 0.5, training=self.training)
        x = self.conv(self.up(x[:, :, 1:].contiguous()))
        return x.reshape(x.shape[0], -1).softmax(-1)


def test_round_trip_of_a_plain_network(tmp_path: Path) -> None:
    verify_round_trip(Plain(), torch.randint(11, (3, 5)), tmp_path / "a.safetensors")


def test_lone_layer(tmp_path: Path) -> None:
    verify_round_trip(nn.Linear(3, 2), torch.randn(4, 3), tmp_path / "a.safetensors")


def test_a_loaded_network_trains_and_is_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), path)
    net = load(path)
    net(torch.ones(2, 3)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    verify_round_trip(net, torch.randn(4, 3), path)


def test_the_run_of_a_file_is_read_back_and_cannot_be_exchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(nn.Linear(3, 2), path)
    assert read_run(path) is None
    save(nn.Linear(3, 2), path, run="one")
    assert read_run(path) == "one" and isinstance(load(path), nn.Module)
    path.write_bytes(path.read_bytes().replace(b'"run":"one"', b'"run":"two"'))
    with pytest.raises(CheckpointError, match="SHA-256 does not match"):
        load(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_run(tmp_path / "b.safetensors")


# damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_flipped_bits_refuse_or_change_nothing(file: Path) -> None:
    content, net = file.read_bytes(), load(file)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(len(content), (400,), generator=generator).tolist() + list(range(16))
    refused = 0
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        file.write_bytes(bytes(damaged))
        try:
            other = load(file)
        except CheckpointError:
            refused += 1
        else:
            assert str(other) == str(net) and all(torch.equal(v, expected[n]) for n, v in other.state_dict().items())
    assert refused > 0.95 * len(positions)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated(file: Path, part: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(file)


def test_missing_foreign_and_random_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load(path)
    path.write_bytes(to_bytes({"a": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"not one that bayesprune\.save wrote"):
        load(path)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(path)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(path)


def test_forging_alone_changes_nothing(file: Path) -> None:
    before = load(file).state_dict()
    rewrite(file)
    assert all(torch.equal(value, before[name]) for name, value in load(file).state_dict().items())


def test_newer_format(file: Path) -> None:
    rewrite(file, version="2")
    with pytest.raises(CheckpointError, match="format version 2, this bayesprune reads up to 1; upgrade"):
        load(file)


EVIL = "x=__import__('os').system('true')"
HOSTILE = {
    "placeholder that is code": at(0, node("placeholder", EVIL, [])),
    "keyword placeholder": at(0, node("placeholder", "lambda", [])),
    "function off the list": at(1, node("call_function", "os.system", ["true"])),
    "getattr of a class": at(1, node("call_function", "getattr", [{"node": "input_1"}, "__class__"])),
    "method off the list": at(1, node("call_method", "__reduce__", [{"node": "input_1"}])),
    "method of a string": at(1, node("call_method", "expand", ["x"])),
    "module that is code": at(1, node("call_module", "0); import os; (", [{"node": "input_1"}])),
    "module that is not there": at(1, node("call_module", "7", [{"node": "input_1"}])),
    "tensor that is not there": at(1, node("get_attr", "0.forward", [])),
    "argument name that is code": at(1, node("call_function", "torch.relu", [], kwargs={"a=1, b": 1})),
    "operation of no kind": at(1, node("call_shell", "true", [])),
    "node of the future": at(1, node("call_function", "torch.relu", [{"node": "_3"}])),
    "marked argument": at(1, node("call_function", "torch.relu", [{"eval": "1"}])),
    "same name twice": lambda a, t: a["nodes"].insert(1, a["nodes"][1]),
    "no output": lambda a, t: a["nodes"].pop(),
    "class off the list": lambda a, t: a["modules"][0].update({"class": "Sequential"}),
    "argument of no constructor": lambda a, t: a["modules"][0]["arguments"].update(device="cpu"),
    "module over a method": lambda a, t: a["modules"][0].update(name="forward"),
    "module over a dictionary": lambda a, t: a["modules"][0].update(name="_modules"),
    "module with a path of dots": lambda a, t: a["modules"][0].update(name="..0"),
    "module twice": lambda a, t: a["modules"].append(a["modules"][0]),
    "another width": lambda a, t: a["modules"][0]["arguments"].update(out_features=10**12),
    "a tensor too many": lambda a, t: t.update(extra=torch.zeros(1)),
    "a tensor too few": lambda a, t: t.pop("0.weight"),
    "a tensor of another shape": lambda a, t: t.update({"0.bias": torch.zeros(5)}),
    "no nodes": lambda a, t: a.pop("nodes"),
    "nodes of another kind": lambda a, t: a.update(nodes="evil"),
    "deep nesting": at(1, node("call_function", "torch.relu", json.loads("[" * 400 + "]" * 400))),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_architectures_are_refused(case: str, file: Path) -> None:
    rewrite(file, HOSTILE[case])
    with pytest.raises(CheckpointError, match="its architecture is refused: "):
        load(file)


# refusals of save -----------------------------------------------------------------------------------------------------


def test_save_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ConfigError, match=r"still has gates; save bayesprune.compact\(model\)"):
        save(NETS["lenet"][0](), path)
    with pytest.raises(ConfigError, match=r"cannot hold 0 \(SyncBatchNorm\), 1 \(CTCLoss\); replace"):
        save(nn.Sequential(nn.SyncBatchNorm(3), nn.CTCLoss()), path)
    with pytest.raises(ConfigError, match=r"the folder .* does not exist"):
        save(nn.Linear(2, 2), tmp_path / "no" / "a.safetensors")
    with pytest.raises(ConfigError, match="is a folder"):
        save(nn.Linear(2, 2), tmp_path)
    assert os.listdir(tmp_path) == []


def test_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(FileError, match=r"cannot write .*disk full"):
        save(nn.Linear(2, 2), file)
    assert file.read_bytes() == before and os.listdir(file.parent) == [file.name]
