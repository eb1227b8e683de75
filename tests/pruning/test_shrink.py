from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bayesprune import layers
from bayesprune.errors import ConfigError, GateError, TraceError
from bayesprune.graph import gates_of
from bayesprune.layers import Draw, Gate, Residual
from bayesprune.optim.remap import remap_optimizer
from bayesprune.pruning import shrink
from tests.pruning.nets import NETS
from tests.pruning.verify import draw_thetas, off_by_mode, snapshot


def sizes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in net.named_parameters()}


def test_every_part_of_a_structure_goes() -> None:
    """Map 1 of 3 and everything of it: filter, bias, normalisation, gate, the next layer's input channel."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Gate(3), nn.Conv2d(3, 4, 1))
    smaller, index = shrink(net, {"3": torch.tensor([False, True, False])})
    assert sizes(smaller) == {
        "0.weight": (2, 2, 3, 3), "0.bias": (2,), "1.weight": (2,), "1.bias": (2,), "3.theta": (2,), "4.weight": (4,
        2, 1, 1), "4.bias": (4,),
    }  # fmt: skip
    assert torch.equal(smaller[0].weight, net[0].weight[[0, 2]])
    assert torch.equal(smaller[4].weight, net[4].weight[:, [0, 2]])
    assert smaller[0].out_channels == smaller[1].num_features == smaller[4].in_channels == 2
    assert smaller[3].size == smaller[3].in_size == 2
    assert smaller[3].index is None
    assert [None if i is None else i.tolist() for i in index.kept["4.weight"]] == [None, [0, 2], None, None]
    assert index.kept["4.bias"] == (None,) and index.kept["1.num_batches_tracked"] == () and not index.folded


def test_gate_on_inputs_selects() -> None:
    net = nn.Sequential(Gate(4), nn.Linear(4, 2))
    smaller, _ = shrink(net, {"0": torch.tensor([True, False, True, False])})
    assert smaller[0].index.tolist() == [1, 3] and smaller[0].in_size == 4 and smaller[0].size == 2
    assert smaller[1].in_features == 2
    again, _ = shrink(smaller, {"0": torch.tensor([True, False])})
    assert again[0].index.tolist() == [3]
    x = torch.randn(5, 4)
    assert torch.allclose(again(x), x[:, 3:] @ net[1].weight[:, 3:].T + net[1].bias)


def test_a_selecting_gate_takes_draws_for_every_row() -> None:
    net = nn.Sequential(Gate(4), nn.Linear(4, 2))
    smaller, _ = shrink(net, {"0": torch.tensor([True, False, True, False])})
    draw = Draw([2])
    smaller[0].connect(draw, 0)
    x, xi = torch.randn(2, 4), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with draw.use(xi):
        assert torch.equal(smaller[0](x), x[:, [1, 3]] * xi)
    with pytest.raises(GateError, match=r"Gate of size 4 .* has 2 there"):
        smaller[0](x[:, :2])


def test_a_map_goes_when_all_its_flattened_features_are_off() -> None:
    net = nn.Sequential(layers.Conv2d(1, 3, 3, gate="unit"), nn.Flatten(), Gate(12), nn.Linear(12, 2))
    off = torch.zeros(12, dtype=torch.bool)
    off[[0, 4, 5, 6, 7, 9]] = True
    smaller, index = shrink(net, {"2": off})
    assert smaller[0].out_channels == 2 and index.kept["0.gate.theta"][0].tolist() == [0, 2]
    assert smaller[2].in_size == 8 and smaller[2].index.tolist() == [1, 2, 3, 4, 6, 7]
    assert smaller[3].in_features == 6
    again, _ = shrink(smaller, {"2": torch.tensor([True, True, True, False, False, False])})
    assert again[0].out_channels == 1 and again[2].in_size == 4 and again[2].index.tolist() == [0, 2, 3]


def test_branch_that_is_off_leaves_its_by_pass() -> None:
    projected = Residual(nn.Linear(4, 5), nn.Linear(4, 5))
    net = nn.Sequential(nn.Linear(3, 4), Residual(nn.Linear(4, 4)), projected, nn.Linear(5, 2))
    smaller, index = shrink(net, {"1": torch.tensor([True]), "2": torch.tensor([True])})
    assert list(sizes(smaller)) == ["0.weight", "0.bias", "2.shortcut.weight", "2.shortcut.bias", "3.weight", "3.bias"]
    assert list(index.kept) == list(sizes(smaller))
    x = torch.randn(2, 3)
    assert torch.equal(smaller(x), net[3](net[2].shortcut(net[0](x))))


def test_constant_is_folded_exactly() -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.Sigmoid(), nn.Linear(4, 2)).double()
    smaller, index = shrink(net, {"0": torch.tensor([False, True, True, False])})
    assert index.folded == {"2.bias"}
    expected = net[2].bias + 0.5 * (net[2].weight[:, 1] + net[2].weight[:, 2])
    assert torch.allclose(smaller[2].bias, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 2, bias=False),
        nn.Conv2d(4, 2, 3, padding=1),
        nn.Conv2d(4, 2, 3, padding="same"),
        nn.ConvTranspose2d(4, 2, 3),
    ],
)
def test_constant_that_does_not_fold_stays(layer: nn.Module) -> None:
    first = nn.Linear(3, 4) if isinstance(layer, nn.Linear) else nn.Conv2d(3, 4, 3)
    net = nn.Sequential(first, Gate(4, dim=-1 if isinstance(layer, nn.Linear) else 1), nn.Sigmoid(), layer)
    smaller, _ = shrink(net, {"1": torch.tensor([False, True, True, False])})
    assert sizes(smaller) == sizes(net)
    x = torch.randn(2, 3) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        net[1].theta[1:3] = 0
    assert torch.equal(smaller(x), net(x)) and smaller[1].theta.tolist() == net[1].theta.tolist()


def test_stream_that_is_not_silenced_keeps_its_channels() -> None:
    net = nn.Sequential(nn.Linear(3, 4), Residual(layers.Linear(4, 4, gate="unit")), nn.Linear(4, 2))
    smaller, _ = shrink(net, {"1.body": torch.tensor([True, False, False, True])})
    assert sizes(smaller) == sizes(net)
    assert [round(t, 4) for t in smaller[1].body.gate.theta.tolist()] == [0, 0.9, 0.9, 0]


def test_stream_whose_writers_are_all_gated_alike_loses_a_channel() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = layers.Linear(3, 4, gate="unit"), layers.Linear(4, 4, gate="unit")
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x))
            return self.out(h + torch.relu(self.b(h)))

    net = Stream()
    off = torch.tensor([False, True, False, False])
    smaller, _ = shrink(net, {"a": off, "b": off})
    assert sizes(smaller)["b.weight"] == (3, 3) and sizes(smaller)["out.weight"] == (2, 3)
    assert sizes(shrink(net, {"a": off})[0])["b.weight"] == (4, 4)


@pytest.mark.parametrize("name", NETS)
def test_flags_dtype_and_draws(name: str) -> None:
    net = NETS[name][0]().to(torch.bfloat16)
    draw = Draw([gate.size for gate in gates_of(net).values()])
    for slot, gate in enumerate(gates_of(net).values()):
        gate.connect(draw, slot)
    draw_thetas(net, 0)
    next(iter(net.parameters())).requires_grad_(False)
    list(net.children())[1].eval()
    smaller, _ = shrink(net, off_by_mode(net), may_empty=True)
    frozen = next(n for n, _ in net.named_parameters())
    old, new = dict(net.named_modules()), dict(smaller.named_modules())
    for path, module in new.items():
        if path in old:
            assert module.training == old[path].training
    for path, parameter in smaller.named_parameters():
        assert parameter.dtype == torch.bfloat16 and parameter.is_leaf and parameter.requires_grad == (path != frozen)
    assert all(gate.draw is None for gate in gates_of(smaller).values())
    assert all(gate.draw is draw for gate in gates_of(net).values())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(2))
def test_removal_in_two_steps_equals_removal_in_one(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = NETS[name][0]().double()
    draw_thetas(net, seed, keep=0.5)
    off = off_by_mode(net)
    if name in ("user", "barriers", "residual"):  # whole branches that go take gates within them along
        off = {key: mask for key, mask in off.items() if mask.numel() > 1}
    once, _ = shrink(net, off, may_empty=True)
    generator = torch.Generator().manual_seed(seed)
    first = {key: mask & (torch.rand(mask.shape, generator=generator) < 0.5) for key, mask in off.items()}
    half, index = shrink(net, first, may_empty=True)
    rest = {}
    for key in gates_of(half):
        path = f"{key}.theta" if f"{key}.theta" in index.kept else f"{key}.gate.theta"
        all_off = off[key] if key in off else torch.zeros(gates_of(net)[key].size, dtype=torch.bool)
        rest[key] = index.select(path, all_off)
    twice, _ = shrink(half, rest, may_empty=True)
    assert str(once) == str(twice)
    a, b = snapshot(once), snapshot(twice)
    assert all(torch.allclose(a[key], b[key], rtol=1e-12, atol=1e-14) for key in a) and list(a) == list(b)


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
}


def weights(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in net.named_parameters() if not name.endswith("theta")}


def one_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["mlp_with_input_gates", "lenet", "residual", "user", "depthwise"])
def test_an_optimiser_step_commutes_with_removal(name: str, optimiser: str) -> None:
    torch.manual_seed(1)
    build, shape = NETS[name]
    net = build().double()
    for parameter in net.parameters():  # normalisations in eval mode: their statistics do not move
        parameter.requires_grad_(True)
    net.eval()
    draw_thetas(net, 3)
    for gate in gates_of(net).values():
        with torch.no_grad():
            gate.theta.copy_(gate.mode())
    optimizer = OPTIMISERS[optimiser](list(weights(net).values()))
    for _ in range(2):
        one_step(net, optimizer, torch.randn(6, *shape, dtype=torch.float64))
    smaller, index = shrink(net, off_by_mode(net))
    other = copy.deepcopy(net)
    follower = OPTIMISERS[optimiser](list(weights(other).values()))
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    remap_optimizer(follower, weights(other), weights(smaller), index)
    x = torch.randn(6, *shape, dtype=torch.float64)
    one_step(net, optimizer, x)
    one_step(smaller, follower, x)
    late, _ = shrink(net, off_by_mode(net))
    for path, parameter in weights(late).items():
        assert torch.allclose(parameter, weights(smaller)[path], rtol=1e-10, atol=1e-12), path


def test_a_layer_is_not_emptied() -> None:
    net = nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.ReLU(), nn.Linear(2, 2))
    off = {"0": torch.tensor([True, True])}
    with pytest.raises(GateError, match=r"layer '2' would be left without any input.*keep at least one gate"):
        shrink(net, off)
    smaller, _ = shrink(net, off, may_empty=True)
    assert sizes(smaller)["2.weight"] == (2, 1)
    assert torch.equal(smaller(torch.randn(4, 3)), net[2].bias.expand(4, 2))


def test_refusals() -> None:
    net = nn.Sequential(layers.Linear(3, 2, gate="unit"), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no gate '1'; it has '0'"):
        shrink(net, {"1": torch.tensor([True])})
    with pytest.raises(ConfigError, match=r"'0' must be bool of shape \(2,\), got torch.float32 of shape \(3,\)"):
        shrink(net, {"0": torch.zeros(3)})
    with pytest.raises(TraceError, match=r"torch\.nn.Sequential"):
        shrink(net[0], {})


@pytest.mark.parametrize(
    "name", ["mlp_with_input_gates", "lenet", "residual", "user", "sigmoid", "depthwise", "sequence"]
)
def test_outputs_stay_in_training_mode_too(name: str) -> None:
    """Batch statistics of what is left do not depend on what has gone."""
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build().double().train()
    draw_thetas(net, 5)
    smaller, index = shrink(net, off_by_mode(net), may_empty=True)
    x = torch.randn(6, *shape, dtype=torch.float64)
    assert torch.allclose(smaller(x), net(x), rtol=1e-10, atol=1e-10)
    after = dict(net.named_buffers())
    for path, buffer in smaller.named_buffers():
        if path in index.kept:
            assert torch.allclose(index.select(path, after[path]).double(), buffer.double(), rtol=1e-10), path


def test_twins_of_one_module_stay() -> None:
    """A layer that is called twice keeps its size; its gates are set to 0 in place."""
    layer = layers.Linear(4, 4, gate="unit")
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), layer, nn.Linear(4, 2))
    smaller, _ = shrink(net, {"1": torch.tensor([True, False, False, False])})
    assert sizes(smaller)["1.weight"] == (4, 4) and smaller[3].gate.theta[0].item() == 0
