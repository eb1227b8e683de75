"""Statistics that a method asks for, each against a direct computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual
from bayesprune.methods import Decision, Method, Needs, Phase, Run, Stats
from bayesprune.pruning import cost
from bayesprune.training import History, Settings, fit
from tests.training.problems import EXAMPLES, Batches, convolutional, examples, units


class Asking(Method):
    """Asks once, at the end of a run that changes next to nothing."""

    name = "asking"

    def __init__(self, *stats: str, examples: int | None = None, every: int | None = None):
        super().__init__()
        self.stats, self.examples, self.every = stats, examples, every
        self.heard: list[Stats] = []

    def options(self) -> dict[str, object]:
        return {}

    def setup(self, run: Run) -> Needs:
        return Needs((Phase("train", decide_every=self.every),), stats=self.stats, examples=self.examples)  # type: ignore[arg-type]

    def decide(self, run: Run) -> Decision:
        self.heard.append(run.stats())
        return Decision()


def asked(net: nn.Module, *stats: str, lr: float = 1e-12, epochs: int = 1, **how: Any) -> tuple[list[Stats], History]:
    x, y = examples()
    first = next(net.modules())
    images = isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv1d)
    method = Asking(*stats, **how)
    settings = Settings(lr=lr)
    history = fit(net, Batches(x[:, None] if images else x, y), epochs=epochs, method=method, settings=settings)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    return method.heard, history


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.detach().double(), rtol=1e-5, atol=1e-7)


def test_activations_of_units_and_inputs() -> None:
    torch.manual_seed(0)
    net = units()
    ((found,), _) = asked(net, "mean_abs", "pooled", "rank", "zeros_in", "act_grad", examples=EXAMPLES)
    x, y = examples()
    u = (net[1](x)).detach().requires_grad_()
    losses = F.cross_entropy(net[3](u.relu()), y, reduction="none")
    (g,) = torch.autograd.grad(losses.sum(), u)
    assert found.examples == EXAMPLES and found.mean_abs.keys() == {"0", "1"}
    close(found.mean_abs["0"], x.abs().mean(0))
    close(found.mean_abs["1"], u.abs().mean(0))
    close(found.rank["1"], (u != 0).double().mean(0))
    close(found.act_grad["1"].mean, (u * g).mean(0))
    close(found.act_grad["1"].size, (u * g).abs().mean(0))
    close(found.zeros_in["3.weight"], (u <= 0).double().mean())
    close(found.zeros_in["1.weight"], torch.zeros(()))
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))  # that of the epoch
    close(found.pooled["1"], u[order])
    assert torch.equal(found.targets, y[order]) and found.in_out == {} and found.change == {}


def test_the_derivative_is_that_for_the_gate() -> None:
    """Of the layer itself, by multiplying one of its units by 1 + ε and 1 − ε; its gate is shared by two layers."""
    torch.manual_seed(0)
    stream = Gate(4)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers.Linear(8, 4, gate=stream), layers.Linear(4, 4, gate=stream)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.second(x.tanh()))

    net = Shared()
    ((found,), _) = asked(net, "act_grad")
    ((name, derivative),) = found.act_grad.items()
    net.double()
    x, y = examples()

    def loss(factor: float) -> Tensor:
        scale = torch.ones(4, dtype=torch.float64)
        scale[2] = factor
        u = net.first(x.double()) * scale
        out = net.last(u + net.second(u.tanh()) * scale)
        return F.cross_entropy(out, y, reduction="none").detach()

    difference = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert name == "first" and derivative.mean[2] == pytest.approx(float(difference.mean()), rel=1e-4)
    assert derivative.size[2] == pytest.approx(float(difference.abs().mean()), rel=1e-4)


def test_activations_with_positions() -> None:
    torch.manual_seed(0)
    net = convolutional()
    ((found,), _) = asked(net, "mean_abs", "pooled", "rank", "act_grad", examples=EXAMPLES)
    x, y = examples()
    net.eval()
    a = net[:3](x[:, None]).detach().requires_grad_()  # shape (B, 4, 6)
    (g,) = torch.autograd.grad(F.cross_entropy(net[3:](a), y, reduction="sum"), a)
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))
    close(found.mean_abs["3"], a.abs().mean((0, 2)))
    close(found.pooled["3"], a.amax(2)[order])
    close(found.rank["3"], (a > 0).any(2).double().mean(0))  # a map is one row
    close(found.act_grad["3"].mean, (a * g).sum(2).mean(0))


def test_ranks_of_maps() -> None:
    class Maps(nn.Module):
        """Maps of rank 1, 2 and 0 for every input."""

        def __init__(self) -> None:
            super().__init__()
            self.gate, self.last = Gate(3), nn.Linear(12, 2)
            one, two = torch.ones(2, 2), torch.eye(2)
            self.register_buffer("maps", torch.stack([one, two, torch.zeros(2, 2)]))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.gate(x[:, :1, None, None].exp() * self.maps).flatten(1))

    ((found,), _) = asked(Maps(), "rank")
    assert found.rank["gate"].tolist() == [1, 2, 0]


def test_branches_count_as_what_they_add() -> None:
    torch.manual_seed(0)
    off = Residual(nn.Linear(4, 4), theta=0.1)
    net = nn.Sequential(nn.Linear(8, 4), Residual(nn.Linear(4, 4)), nn.ReLU(inplace=True), off, nn.Linear(4, 2))
    ((found,), _) = asked(net, "mean_abs", "act_grad")
    x, _ = examples()
    close(found.mean_abs["1"], net[1].body(net[0](x)).abs().mean()[None])
    assert found.mean_abs["3"].tolist() == [0] and found.act_grad["3"].size.tolist() == [0]


def test_what_goes_into_layers_and_comes_out_of_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    ((found,), _) = asked(net, "in_out", examples=90)  # two batches and a quarter
    x, y = examples()
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))[:90]
    x, y = x[order], y[order]
    u = net[0](x)
    close(found.in_out["0.weight"].inputs, x)
    close(found.in_out["0.weight"].outputs, u)
    close(found.in_out["2.weight"].inputs, u.relu())
    close(found.in_out["2.weight"].outputs, net[2](u.relu()))
    assert found.examples == 90 and torch.equal(found.targets, y)


def test_vectors_are_inputs_at_one_position() -> None:
    """Of a linear layer they are its inputs, of a convolution what gives its output at some place; others have none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2))
    ((found,), _) = asked(net, "vectors", "in_out", examples=90)
    assert found.vectors.keys() == {"0.weight", "3.weight"} and found.examples == 90
    close(found.vectors["3.weight"], found.in_out["3.weight"].inputs)
    given = found.vectors["0.weight"] @ net[0].weight.detach().flatten(1).T + net[0].bias.detach()
    gaps = (found.in_out["0.weight"].outputs - given[:, :, None]).abs().amax(1)
    assert float(gaps.amin(1).max()) < 1e-5 and len(gaps.argmin(1).unique()) == 6


def test_how_much_weights_change() -> None:
    """Since the last decision: for the first one since the beginning."""
    torch.manual_seed(0)
    net = units()
    initial, seen = net[1].weight.detach().clone(), []
    method = Asking("change", every=1)
    history = fit(
        net, Batches(*examples()), epochs=2, method=method, settings=Settings(lr=0.02),
        on_epoch=lambda row: seen.append(net[1].weight.detach().clone()),
    )  # fmt: skip
    first, second = (stats.change["1.weight"] for stats in method.heard)
    close(first, (seen[0] - initial).norm() / seen[0].norm())
    close(second, (seen[1] - seen[0]).norm() / seen[1].norm())
    macs = cost(net, examples()[0]).macs
    assert method.heard[0].examples == 0 and history.charged == 2 * 3 * EXAMPLES * macs  # no pass for it


@pytest.mark.parametrize(("stats", "passes"), [(("mean_abs",), 1), (("mean_abs", "act_grad"), 3)])
def test_passes_are_charged(stats: tuple[str, ...], passes: int) -> None:
    torch.manual_seed(0)
    net = units()
    macs = cost(net, examples()[0]).macs
    _, history = asked(net, *stats, examples=100)
    assert history.charged == (3 * EXAMPLES + passes * 100) * macs


def test_weights_that_rest_let_gradients_through() -> None:
    torch.manual_seed(0)
    net = units()
    net[1].requires_grad_(False)
    ((found,), _) = asked(net, "act_grad")
    assert float(found.act_grad["1"].size.min()) > 0 and float(found.act_grad["0"].size.min()) > 0


@pytest.mark.parametrize(
    ("stats", "says"),
    [(("nonsense",), "'nonsense' is none; known are mean_abs"), (("pooled",), "say of how many")],
)
def test_what_cannot_be_asked(stats: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        asked(units(), *stats)
