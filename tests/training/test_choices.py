"""What is trained and how: features that meet in one call of `fit`, and what it says of calls that make no sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods import Method
from bayesprune.methods.magnitude import Magnitude
from bayesprune.methods.svi import SVI
from bayesprune.training import Settings, evaluate, fit
from tests.training.problems import EXAMPLES, Batches, bayesian, examples, units

GENTLE = Settings(lr=0.02, every=1)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


class Shrinking:
    """A loader without a length whose first two passes have all batches, and later ones one less."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        x, y = examples()
        return iter(list(zip(x.split(40), y.split(40), strict=True))[: None if self.passes <= 2 else -1])


def loader() -> Batches:
    return Batches(*examples())


def test_the_output_of_a_plain_network_that_counts() -> None:
    torch.manual_seed(0)
    net = TwoOutputs()
    before = net.first.weight.clone()
    rows = fit(net, loader(), epochs=2, val_loader=loader(), method="none", loss_on=1, settings=Settings(lr=0.02)).rows
    assert torch.equal(net.first.weight, before)  # the other output teaches nothing
    assert rows[-1].val_nll == evaluate(net, loader(), loss_on=1).nll < rows[0].val_nll


def test_inference_goes_by_the_settings_of_fit_or_by_its_own() -> None:
    """All three ways to say one thing do one thing."""

    def losses(method: Any, settings: Settings | None) -> list[float]:
        torch.manual_seed(8)
        return [row.loss for row in fit(bayesian(units()), loader(), epochs=2, method=method, settings=settings).rows]

    assert losses("svi", GENTLE) == losses(SVI(), GENTLE) == losses(SVI(GENTLE), None) == losses(SVI(GENTLE), GENTLE)
    assert losses(SVI(), None) == losses(None, None)


def normal() -> nn.Module:
    net = units()
    BayesianNet(net, num_data=EXAMPLES, weights="normal")
    return net


REFUSED: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (lambda: BayesianNet(units(), num_data=EXAMPLES), {"method": "none"}, "'none' trains a network without a post"),
    (lambda: bayesian(units()), {"method": SVI(GENTLE), "settings": Settings()}, "given twice and differ"),
    (lambda: bayesian(units()), {"loss_on": 0}, "a BayesianNet has a loss_on of its own"),
    (normal, {"method": "none"}, "has the Normal weights of a BayesianNet; build the network anew"),
    (nn.Identity, {"method": "none"}, "nothing is to be learned"),
    (TwoOutputs, {"method": "none"}, "^the network gives a tuple of 2; say which tensor"),
    (units, {"method": "none", "train_loader": Shrinking()}, "the train_loader gave 480 at first, .* has 440 examples"),
]


@pytest.mark.parametrize(("make", "how", "says"), REFUSED)
def test_refused(make: Callable[[], Any], how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        fit(make(), **{"train_loader": loader(), "epochs": 2, **how})
    assert "\n" not in str(caught.value)


MOMENTUM = partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize(
    ("method", "optimizer", "says"),
    [
        (Magnitude(0.5), MOMENTUM, r"its settings is \('sparsity', 0.9\), here it is \('sparsity', 0.5\);"),
        (Magnitude(), partial(torch.optim.SGD, momentum=0.5), r"\('momentum', '0.9'\).*\('momentum', '0.5'\)"),
        (
            Magnitude(),
            torch.optim.SGD,
            r"is \('optimizer', \['SGD', .*, here it is \('optimizer', 'SGD'\);",
        ),
    ],
)
def test_a_checkpoint_of_other_settings_says_which(method: Method, optimizer: Any, says: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"train_loader": loader(), "epochs": 1, "out": tmp_path}
    fit(units(), method="magnitude", settings=Settings(optimizer=MOMENTUM), **how)
    with pytest.raises(CheckpointError, match=says):
        fit(units(), method=method, settings=Settings(optimizer=optimizer), **how)
