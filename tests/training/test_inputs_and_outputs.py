"""Networks of several inputs and outputs train as those of one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import CheckpointError, ConfigError, DataError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import compact, cost
from bayesprune.training import Budget, Settings, evaluate, fit
from tests.training.loaders import QUICK, Mapped, TwoInputs, TwoOutputs, halves, trained
from tests.training.problems import EXAMPLES, Batches, bayesian, branches, examples, units


def test_two_inputs_are_cut_priced_and_predicted_as_one_is() -> None:
    x, y = examples()
    torch.manual_seed(0)
    one = BayesianNet(units(), num_data=EXAMPLES, slab="normal")
    torch.manual_seed(0)
    two = BayesianNet(TwoInputs(), num_data=EXAMPLES, slab="normal")
    settings = Settings(lr=0.02, schedule=QUICK, budget=Budget.parse("macs=0.7"), temperature=0.5)
    for bnn, loader in ((one, Batches(x, y)), (two, Mapped(lambda x, y: (halves(x), y)))):
        torch.manual_seed(1)
        fit(bnn, loader, epochs=4, settings=settings)
    assert torch.equal(one.theta, two.theta)
    assert cost(one, x) == cost(two, halves(x)) == cost(two, {"left": x[:, :3], "right": x[:, 3:]})
    draws = []
    for bnn, inputs in ((one, x), (two, halves(x)), (two, {"right": x[:, 3:], "left": x[:, :3]})):
        torch.manual_seed(2)
        draws.append(bnn.predict(inputs, 3).samples)
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    torch.testing.assert_close(compact(two)(*halves(x)), two.eval()(halves(x)))


def test_an_output_that_is_not_chosen_is_refused() -> None:
    for form, how, says in (
        ("tuple", {}, r"gives a tuple of 2; say which tensor"),
        ("tuple", {"loss_on": 2}, r"gives a tuple of 2, and loss_on=2 finds no tensor in it"),
        ("tuple", {"loss_on": "logits"}, r"loss_on='logits' finds no tensor"),
        ("dict", {"loss_on": 0}, r"gives a dict of 'logits', 'inputs', and loss_on=0 finds"),
    ):
        bnn = BayesianNet(TwoOutputs(form), num_data=EXAMPLES, **how)
        with pytest.raises(ConfigError, match=says):
            fit(bnn, Batches(*examples()), epochs=1)


def test_a_plain_network_with_two_outputs_is_scored_where_asked() -> None:
    net, (x, y) = TwoOutputs("dict"), examples(40)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net.eval()(x)["logits"], y)
    assert evaluate(net, [(x, y)], loss_on="logits").nll == pytest.approx(float(expected))
    with pytest.raises(DataError, match=r"evaluate: batch 0: the network does not take inputs of shape \(40, 7\)"):
        evaluate(net, [(x[:, :7], y)], loss_on="logits")


def test_a_run_on_another_output_is_another_run(tmp_path: Path) -> None:
    class Two(TwoOutputs):
        def forward(self, x: Tensor) -> Any:
            logits = self.layers(x)
            return logits, -logits

    for place in (0, 1):
        bnn = bayesian(Two("tuple"), 0.5, loss_on=place)
        with nullcontext() if place == 0 else pytest.raises(CheckpointError, match="belongs to another run: its model"):
            fit(bnn, Batches(*examples()), epochs=1, settings=Settings(schedule=QUICK), out=tmp_path)


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_weights_and_two_inputs_of_a_network_with_branches(slab: str) -> None:
    """Second passes, from a flipped branch on, and exact differences get weights, inputs and the chosen output, too."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = branches(2)

        def forward(self, left: Tensor, right: Tensor) -> Any:
            return left, self.layers(torch.cat([left, right], 1))

    weighted = Mapped(lambda x, y: ({"right": x[:, 3:], "left": x[:, :3]}, y, torch.ones(len(y))))
    how = {"slab": slab}
    losses, learned = trained(Batches(*examples()), lambda: branches(2), **how)
    found, parameters = trained(weighted, Apart, **how, loss_on=1)
    assert found == losses
    assert all(torch.equal(one, other) for one, other in zip(learned, parameters, strict=True))
