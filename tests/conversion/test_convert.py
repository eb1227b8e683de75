"""Networks that are converted: the same outputs with all gates on, and what compacting leaves is exact."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.layers import Residual, gates_of
from tests.conversion.small import Small, distance, images, switch_off


def test_gates_are_where_they_mean_removal_and_names_follow_one_rule() -> None:
    net = bp.convert(Small())
    assert {name: gate.size for name, gate in gates_of(net).items()} == {
        "layer1.0.residual": 1,
        "layer1.0.residual.body.conv1_gate": 4,
        "layer1.1.residual": 1,
        "layer1.1.residual.body.conv1_gate": 6,
        "layer1.1.conv2_gate": 6,  # on the sum of two layers, which one alone reads
    }
    names = dict(net.named_modules())
    assert {"stem", "fc", "layer1.0.residual.body.conv1", "layer1.1.residual.shortcut.downsample"} <= names.keys()
    assert isinstance(names["layer1.0.residual"], Residual)


def test_the_model_stays_as_it_was_and_the_copy_is_like_it() -> None:
    model = Small().double().train()
    model.layer1[0].bn1.eval()
    model.stem.weight.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    net = bp.convert(model, theta=0.7)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert net.training and not net.get_submodule("layer1.0.residual.body.bn1").training
    assert not net.get_submodule("stem").weight.requires_grad
    assert net.get_submodule("stem").weight.dtype == torch.float64
    assert all(bool((gate.theta == 0.7).all()) for gate in gates_of(net).values())
    assert torch.equal(net.eval()(images()), model.eval()(images()))


def test_functions_of_dropout_follow_the_mode() -> None:
    net = bp.convert(Small().double()).train()
    assert not torch.equal(net(images()), net(images()))
    net.eval()
    assert torch.equal(net(images()), net(images()))


def test_a_branch_that_is_off_is_not_computed() -> None:
    net = bp.convert(Small().double().eval())
    block = net.get_submodule("layer1.0.residual")
    with torch.no_grad():
        block.gate.theta.zero_()
    block.body.conv1 = None  # it would raise if it were called
    assert net(images()).shape == (2, 5)


@pytest.mark.parametrize(
    "name, branches, units",
    [("resnet18", 8, 1920), ("mobilenet_v2", 10, 8752), ("squeezenet1_0", 0, 2976)],
)
def test_networks_of_torchvision(name: str, branches: int, units: int, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model, x = getattr(models, name)(weights=None).double().eval(), images(32)
    net = bp.convert(model, example_input=x)
    sizes = [gate.size for gate in gates_of(net).values()]
    assert sizes.count(1) == branches and sum(sizes) - branches >= units
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net)
    assert distance(small(x), net(x)) < 1e-9
    assert bp.cost(small).params < bp.cost(model).params
    bp.save(small, tmp_path / "model")
    assert torch.equal(bp.load(tmp_path / "model")(x), small(x))


@pytest.mark.slow
def test_a_network_for_segmentation_gives_maps_by_name(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    model = models.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).double().eval()
    net, x = bp.convert(model, example_input=images(32)), images(48)  # of another size than it was followed for
    assert distance(net(x)["out"], model(x)["out"]) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=images(32))
    assert distance(small(x)["out"], net(x)["out"]) < 1e-9
    bp.save(small, tmp_path / "model")
    assert torch.equal(bp.load(tmp_path / "model")(x)["out"], small(x)["out"])


def test_a_converted_network_is_trained_shrunk_compacted_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    bnn = bp.BayesianNet(bp.convert(Small()), num_data=16, example_input=x[:1])
    bp.fit(bnn, DataLoader(TensorDataset(x, y), batch_size=8), epochs=1)
    switch_off(bnn.gated_network())
    small = bp.compact(bnn.eval())
    torch.testing.assert_close(small(x), bnn.gated_network()(x), rtol=1e-4, atol=1e-5)
    bp.pruning.export_torch(small, x[:2], tmp_path / "net.pt2")
    again = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(again(x), small(x), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="its exporter to ONNX translates no batch normalisation of any network"
)
def test_a_converted_network_is_exported_to_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = bp.convert(Small().eval()), images().float()
    switch_off(net)
    small = bp.compact(net)
    bp.pruning.export_onnx(small, x, tmp_path / "net.onnx")
    output = runtime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(output), small(x), rtol=1e-4, atol=1e-5)


def test_a_squeeze_and_excitation_sees_the_zeros() -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.depthwise = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6)
            self.down, self.up, self.last = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.silu(self.depthwise(F.relu(self.conv(x))))
            scale = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
            return torch.flatten(self.last(scale * x).mean((2, 3)), 1)

    net = bp.convert(Excited().double().eval())
    assert {name: gate.size for name, gate in gates_of(net).items()} == {"conv_gate": 6, "down_gate": 2}
    switch_off(net)
    small = bp.compact(net)
    left = int(gates_of(net)["conv_gate"].mode().sum())
    assert small.get_submodule("depthwise").groups == left < 6
    assert distance(small(images()), net(images())) < 1e-12


def test_blocks_of_attention_are_branches_with_heads() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.mlp = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            y, _ = self.attention(y, y, y, need_weights=False)
            x = x + y
            return x + self.mlp(x)

    x = torch.randn(2, 3, 4, dtype=torch.float64)
    model = Encoder().double().eval()
    net = bp.convert(model, example_input=x)
    assert {name: gate.size for name, gate in gates_of(net).items()} == {
        "residual": 1,
        "residual.body.attention.gate": 2,
        "mlp.residual": 1,
        "mlp.residual.body.1_gate": 6,
    }
    assert distance(net(x), model(x)) < 1e-12


def test_only_and_skip() -> None:
    assert set(gates_of(bp.convert(Small(), only=["layer1.1"]))) == {
        "layer1.1.residual",
        "layer1.1.residual.body.conv1_gate",
        "layer1.1.conv2_gate",
    }
    assert len(gates_of(bp.convert(Small(), skip=["layer1.1"]))) == 2
    assert len(gates_of(bp.convert(Small(), units=False))) == 2
    assert all(gate.size > 1 for gate in gates_of(bp.convert(Small(), branches=False)).values())


@pytest.mark.parametrize(
    "model, shape, left",
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (2, 4), "0.in_features"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (2, 5, 4), "0.in_features"),
        (lambda: nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)), (2, 4, 3, 3), "0.in_channels"),
    ],
)
def test_inputs(model: Any, shape: tuple[int, ...], left: str) -> None:
    torch.manual_seed(0)
    plain, x = model().double(), torch.randn(shape).double()
    net = bp.convert(plain, inputs=True, example_input=x)
    gates = gates_of(net)
    assert [gate.size for gate in gates.values()] == [4, 3] and distance(net(x), plain(x)) < 1e-12
    with torch.no_grad():
        next(iter(gates.values())).theta[:] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    small = bp.compact(net, example_input=x)
    layer, size = left.split(".")
    assert getattr(small.get_submodule(layer), size) == 2
    assert distance(small(x), net(x)) < 1e-12


def test_structures_say_what_gates_rule() -> None:
    table = bp.structures(bp.convert(Small()), example_input=torch.zeros(1, 3, 8, 8))
    # the stem's multiply-adds are free
    assert table.share == pytest.approx(1 - 64 * 108 / (64 * (108 + 288 + 216 + 324 + 24) + 30))
    assert [row.kind for row in table].count("branch") == 2
    assert "layer1.0.residual.body.conv1_gate" in str(table)


class Mixed(nn.Module):
    """Maps that a branch works on one by one, and that one layer alone reads, as in ConvMixer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.GELU(), nn.BatchNorm2d(6))
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x + self.depthwise(x))


def test_what_is_added_up_and_read_once_is_gated_there() -> None:
    model, x = Mixed().double().eval(), images()
    net = bp.convert(model, branches=False, example_input=x)
    assert set(gates_of(net)) == {"stem_gate"}
    assert distance(net(x), model(x)) < 1e-12
    switch_off(net)
    small = bp.compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-12
    assert small.get_submodule("stem").out_channels == small.get_submodule("depthwise.0").groups < 6


class Followed(nn.Module):
    """A layer that is called twice, once with what stays, a recurrent one whose cell is read, and one with units."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.twice = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 4)
        self.units, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        cell = self.recurrent(x)[1][1][-1]
        return self.last(torch.relu(self.units(self.twice(torch.relu(self.twice(cell))))))


def test_layers_that_are_not_followed_have_rows() -> None:
    x = torch.randn(2, 6, 3)
    table = bp.structures(bp.convert(Followed(), example_input=x), example_input=x)
    left = {row.gate: (row.size, row.rules) for row in table if row.kind == "none"}
    assert left == {
        "recurrent": (4, "gives what no gate can stand behind"),
        "twice": (4, "is read by twice, which elsewhere is called with what stays"),
        "last": (2, "is an output of the network"),
    }
    assert [row.gate for row in table if row.kind == "unit"] == ["units_gate"]
