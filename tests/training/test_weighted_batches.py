"""Weights of examples, and scores of batches: by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bayesprune import layers
from bayesprune.errors import DataError
from bayesprune.infer import BatchObjective, BayesianNet, Bernoulli, Categorical, Gaussian, paired_differences
from bayesprune.infer.targets import WeightedTargets
from bayesprune.layers import Gate
from bayesprune.training import Settings, evaluate, fit
from bayesprune.training.reader import Reader
from tests.training.problems import EXAMPLES, examples, units


def weighted_batch() -> tuple[BayesianNet, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = examples(6)
    return BayesianNet(units(), num_data=6), x, y, torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0, 0.0])


def test_the_loss_is_the_mean_of_weighted_losses_and_a_weight_counts_as_repetition() -> None:
    bnn, x, y, w = weighted_batch()
    xi = torch.ones(1, bnn.num_gates)
    by_hand = w * nn.functional.cross_entropy(bnn(x, xi), y, reduction="none")
    torch.testing.assert_close(BatchObjective(bnn, x, WeightedTargets(y, w))(xi), by_hand, rtol=0, atol=0)
    repeats = torch.tensor([0, 2, 4, 1, 6, 0])
    twice = BatchObjective(bnn, x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0))(xi)
    torch.testing.assert_close(twice.sum() / 2, by_hand.sum())


def test_differences_are_weighted_by_example() -> None:
    bnn, x, y, w = weighted_batch()
    xi = torch.ones(1, bnn.num_gates)
    found, _ = paired_differences(bnn, x, WeightedTargets(y, w), xi)
    each = torch.stack([paired_differences(bnn, x[i : i + 1], y[i : i + 1], xi)[0] for i in range(6)])
    torch.testing.assert_close(found, (w[:, None] * each).mean(0))


def test_examples_of_weight_0_teach_nothing() -> None:
    def spoiled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat([x, 1 - x]), torch.cat([y, 1 - y]), torch.cat([2 * torch.ones(len(y)), torch.zeros(len(y))])

    torch.manual_seed(0)
    bnn = BayesianNet(nn.Sequential(Gate(8), nn.Linear(8, 1, bias=False)), Gaussian(), num_data=2 * EXAMPLES)
    x, y = examples()
    settings = Settings(lr=0.1, schedule={"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0})
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    fit(bnn, [spoiled(x, y[:, None].float())], epochs=200, settings=settings)
    target = y.float()
    ridge = torch.linalg.solve(2 * x.T @ x + torch.eye(8), 2 * x.T @ target)  # weights of precision 1
    torch.testing.assert_close(bnn.net[1].weight[0].detach(), ridge, rtol=0, atol=2e-3)


def test_scores_by_hand() -> None:
    bnn, x, y, w = weighted_batch()
    bnn.eval()
    score = evaluate(bnn, [(x[:4], y[:4], w[:4]), (x[4:], y[4:], w[4:])])
    nll = nn.functional.cross_entropy(bnn(x), y, reduction="none").detach()
    right = (bnn(x).argmax(1) == y).float()
    assert score.nll == pytest.approx(float((w * nll).sum() / 6))
    assert score.accuracy == pytest.approx(float((w * right).sum() / w.sum()))


def test_labels_that_cannot_be_are_not_scored() -> None:
    bnn, x, y, w = weighted_batch()
    for later in (y + 2, y - 100, y.float()):
        with pytest.raises(DataError, match=r"evaluate: batch 1: .*labels"):
            evaluate(bnn, [(x, y), (x, later)])
    with pytest.raises(DataError, match=r"evaluate: batch 0: weights must be finite and not negative"):
        evaluate(bnn, [(x, y, w - 1)])


def test_binary_targets_have_an_accuracy() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Gate(8), nn.Linear(8, 3))
    bnn = BayesianNet(net, Bernoulli(), num_data=20).eval()
    x, y = torch.randn(20, 8), torch.rand(20, 3).round()
    assert evaluate(bnn, [(x, y)]).accuracy == pytest.approx(
        float(((bnn(x).sigmoid() > 0.5) == (y == 1)).float().mean())
    )
    assert math.isnan(evaluate(net, [(x, y)], Gaussian()).accuracy)


def test_labels_on_an_accelerator_are_taken_for_0_until_the_epoch_ends() -> None:
    bnn, x, y, w = weighted_batch()
    reader = Reader(bnn, torch.zeros(1, 2), [(x, y)], lambda t: t)
    wrong = torch.tensor([0, 1, 7, -100, 1, 0])
    assert reader._flagged(wrong, wrong).tolist() == [0, 1, 0, 0, 1, 0]
    assert torch.equal(reader._flagged(y, y), y)
    with pytest.raises(DataError, match="held targets that the likelihood does not take"):
        reader.end_epoch(1, 6)
    reader([x, y], 0)
    reader._flagged(y, y)
    reader.end_epoch(1, 6)
    reader._flagged(WeightedTargets(y, -w), y)
    with pytest.raises(DataError, match="or weights that are negative"):
        reader.end_epoch(1, 6)


def test_every_pixel_has_a_class() -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 2, 4, 4)
    y = (x[:, 0] > 0).int()
    net = nn.Sequential(layers.Conv2d(2, 6, 1, gate="unit"), nn.ReLU(), nn.Conv2d(6, 2, 1))
    bnn = BayesianNet(net, Categorical(), num_data=48)
    loader = DataLoader(TensorDataset(x, y), 16)
    before = evaluate(bnn, loader)
    with torch.no_grad():
        by_hand = nn.functional.cross_entropy(bnn.eval()(x), y.long(), reduction="none").flatten(1).sum(1).mean()
    assert before.nll == pytest.approx(float(by_hand), rel=1e-5)
    assert before.accuracy == pytest.approx(float((bnn(x).argmax(1) == y).float().mean()))
    history = fit(bnn, loader, epochs=40, val_loader=loader, settings=Settings(lr=0.02))
    assert history.rows[-1].val_accuracy > 0.97
    assert history.rows[-1].val_nll < before.nll / 4
