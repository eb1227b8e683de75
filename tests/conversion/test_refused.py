"""What cannot be followed stays whole, and what cannot be converted is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import bayesprune as bp
from bayesprune.errors import ConfigError, GateError, TraceError
from bayesprune.layers import Gate, gates_of
from tests.conversion.small import Small, distance, images, switch_off


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if x.sum() > 0:
            x = x * 2
        return self.last(x)


def test_a_module_that_cannot_be_followed_stays_whole() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mlp = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
            self.inner = nn.ModuleList([Branching()])
            self.last = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner[0](self.mlp(torch.relu(self.first(x)))))

    model, x = Around().double().eval(), torch.randn(3, 4).double()
    for options in ({}, {"skip": ["inner"]}, {"only": ["first", "mlp", "last"]}):
        net = bp.convert(model, example_input=x, **options)
        assert {name: gate.size for name, gate in gates_of(net).items()} == {
            "first_gate": 4,
            "mlp.0_gate": 6,
            "last.0_gate": 5,
        }
        assert isinstance(net.get_submodule("inner.0.whole"), Branching)
        assert net.get_submodule("inner.0.whole.first").weight is not model.inner[0].first.weight
        assert torch.equal(net(x), model(x))
        switch_off(net)
        small = bp.compact(net, example_input=x)
        assert small.get_submodule("mlp.2").out_features == 2
        assert distance(small(x), net(x)) < 1e-12
        table = bp.structures(net, example_input=x)
        assert 0 < table.share < 1
        (left,) = (row for row in table if row.gate == "inner.0")
        assert left.kind == "none" and left.share > 0
        assert left.rules.startswith("stays whole: ") and left.rules.endswith("if x.sum() > 0:)")
    assert set(gates_of(bp.convert(model))) == {"first_gate", "mlp.0_gate", "last.0_gate"}


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def quantised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), torch.ao.nn.quantized.FloatFunctional())


def nine_features() -> nn.Module:
    """Attention with four heads, which do not divide its features."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.out = nn.Linear(9, 27), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.map(x).view(x.shape[0], x.shape[1], 3, 4, 9 // 4).permute(2, 0, 3, 1, 4).unbind(0)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Attention()


class Scaled(nn.Module):
    """A layer whose outputs are multiplied by a number that tensors hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)) * x.max().item())


class Keeping(nn.Module):
    """Keeps what it made of a parameter in its first pass, as relative positions of attention are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.shift = nn.Linear(2, 3), nn.Linear(3, 1), nn.Parameter(torch.ones(3))
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.kept:
            self.kept["cpu"] = 2 * self.shift
        return self.last(torch.relu(self.first(x)) + self.kept["cpu"])


def kept() -> nn.Module:
    """A network with one part that has kept something."""
    net = nn.Sequential(Keeping())
    net(torch.zeros(1, 2))
    return net


def vision() -> nn.Module:
    """A transformer for images of one size."""
    return VisionTransformer(16, 8, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4, num_classes=2)


class Extended(nn.Module):
    """Attention to a step besides those that it is given."""

    def __init__(self, **step: bool):
        super().__init__()
        self.map, self.at = nn.Linear(2, 2), nn.MultiheadAttention(2, 2, batch_first=True, **step)

    def forward(self, x: Tensor) -> Tensor:
        x = self.map(x).unsqueeze(1)
        return self.at(x, x, x)[0]


class Squeezed(nn.Module):
    """A layer whose outputs are squeezed."""

    def __init__(self, dims: tuple[int, ...]):
        super().__init__()
        self.first, self.last, self.dims = nn.Linear(2, 3), nn.Linear(3, 1), dims

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).squeeze(*self.dims))


@pytest.mark.parametrize(
    "model, options, error, says",
    [
        (lambda: Branching(), {}, TraceError, "if x.sum() > 0"),
        (lambda: nn.Sequential(nn.Linear(2, 1)), {}, GateError, "no layer has units that others read"),
        (Small, {"skip": ["stem", "layer1", "fc"]}, GateError, "or the options leave none"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Gate(2)), {}, ConfigError, "has gates already"),
        (lambda: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), {}, ConfigError, "TorchScript"),
        (lambda: nn.Sequential(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))), {}, TraceError, "by TorchScript"),
        (lambda: torch.compile(nn.Linear(2, 2)), {}, TraceError, "the network has a form compiled by torch.compile"),
        (lambda: nn.DataParallel(nn.Linear(2, 2)), {}, TraceError, "pass the module itself: wrapper.module"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), {}, TraceError, "a lazy layer"),
        (lambda: bp.convert(two_layers()), {}, ConfigError, "has gates already"),
        (lambda: bp.BayesianNet(bp.convert(two_layers()), num_data=2), {}, ConfigError, "has gates already"),
        (lambda: bp.BayesianNet(bp.convert(two_layers()), num_data=2).net, {}, ConfigError, "has gates already"),
        (
            lambda: Extended(add_bias_kv=True),
            {},
            GateError,
            "'at': it is a MultiheadAttention with add_bias_kv, a step",
        ),
        (
            lambda: Extended(add_zero_attn=True),
            {"example_input": torch.ones(2, 2)},
            GateError,
            "reaches at, a Multihead",
        ),
        (
            lambda: Squeezed((0,)),
            {},
            GateError,
            "'first': it reaches squeeze(0), which drops the dimension of examples",
        ),
        (
            lambda: Squeezed(()),
            {},
            GateError,
            "a batch of one is not assumed (name another dimension, as x.squeeze(-1)",
        ),
        (quantised, {}, TraceError, "quantised"),
        (kept, {}, TraceError, "module '0' keeps a tensor that it computed of its parameters or inputs, in 'kept'"),
        (nine_features, {"example_input": torch.zeros(2, 5, 9)}, TraceError, "shape '[1, 5, 3, 4, 2]' is invalid for"),
        (Scaled, {"example_input": torch.ones(2, 2)}, GateError, "a tensor of which less is known. Put gates by hand"),
        (vision, {"example_input": images(24)}, TraceError, "Wrong image height! Expected 16 but got 24!"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), {}, TraceError, "parametrisation"),
        (Small, {"example_input": torch.zeros(1, 2, 8, 8)}, TraceError, "does not go through Small"),
        (Small, {"example_input": torch.zeros(0, 3, 8, 8)}, TraceError, "has no example"),
        (Small, {"example_input": torch.tensor(1.0)}, TraceError, "has no example"),
        (Small, {"example_input": (images(), images())}, TraceError, "does not fit forward of Small: too many"),
        (Small, {"example_input": {"y": images()}}, TraceError, "does not fit forward of Small: missing a required"),
        (Small, {"skip": ["layer9"]}, ConfigError, "no module 'layer9'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_what_cannot_be_converted_is_refused_in_one_line(model: Any, options: Any, error: Any, says: str) -> None:
    with pytest.raises(error) as raised:
        bp.convert(model(), **options)
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_heads_without_an_example_are_refused_with_the_way_out() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.out = nn.Linear(4, 12), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.map(x).view(x.shape[0], x.shape[1], 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            return self.out(mixed.reshape(x.shape[0], x.shape[1], 4))

    x = torch.randn(2, 5, 4)
    net = bp.convert(Attention(), example_input=x)
    with pytest.raises(GateError, match=r"reaches reshape .*; pass example_input= \(to BayesianNet, compact"):
        bp.BayesianNet(net, num_data=2)
    assert bp.BayesianNet(net, num_data=2, example_input=x).num_gates == 2
