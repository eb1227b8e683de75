"""Exact differences of a batch that several processes share: mean and standard error are those of all its examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesprune.infer import GateSample, paired_differences
from bayesprune.methods.svi.gates import GateUpdates
from tests.training.problems import bayesian, branches, examples

SIZE = 20


@pytest.mark.parametrize("first", [10, 13, 1])
def test_the_examples_of_all_processes_are_pooled(first: int) -> None:
    net = bayesian(branches())
    with torch.no_grad():
        net.theta.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    x, y = examples(SIZE)
    gates = GateSample(net.theta.detach()[None], [True, False, True, False])
    sent: list[Tensor] = []
    other = GateUpdates(net, lambda sums: sent.append(sums) or sums)  # type: ignore[func-returns-value]
    other.exact.add(x[first:], y[first:], gates, SIZE)
    moves = GateUpdates(net, lambda sums: (sums + sent[0]) / 2)
    moves.exact.add(x[:first], y[:first], gates, SIZE)

    whole = GateUpdates(net, lambda sums: pytest.fail("one process has all"))
    whole.exact.add(x, y, gates, SIZE)
    difference, error = paired_differences(net, x, y, *gates)
    for exact in (whole.exact, moves.exact):
        found, spread, _ = exact.estimate()
        torch.testing.assert_close(found, difference, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(spread, error, rtol=1e-4, atol=1e-10)
    assert (error > 0).all()
