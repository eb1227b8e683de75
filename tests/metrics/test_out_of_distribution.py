"""Entropy by its formula, AUROC by the comparison of all pairs and by scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.distributions import Categorical

from bayesprune.errors import DataError
from bayesprune.metrics import auroc, entropy


def by_pairs(inside: torch.Tensor, outside: torch.Tensor) -> float:
    """The probability that one from outside is higher than one from inside, ties counted half."""
    difference = outside[:, None] - inside[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([0.1, 0.2], [0.3, 0.4], 1.0),
        ([0.3, 0.4], [0.1, 0.2], 0.0),
        ([0.1, 0.3], [0.2, 0.4], 0.75),
        ([0.5, 0.5, 0.5], [0.5], 0.5),
        ([0.0, 0.5], [0.5, 1.0], 0.875),
        ([-7.0], [-6.5, -8.0], 0.5),
    ],
)
def test_values_by_hand(inside: list[float], outside: list[float], expected: float):
    assert auroc(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(expected, abs=1e-7)


def test_scores_with_ties_are_ranked_as_by_scikit_learn_and_by_pairs():
    inside, outside = torch.randn(300).mul(3).round() / 3, (0.5 + torch.randn(500)).mul(3).round() / 3
    labels = [0] * 300 + [1] * 500
    found = auroc(inside, outside)
    assert found == pytest.approx(by_pairs(inside, outside), abs=1e-6)
    assert found == pytest.approx(roc_auc_score(labels, torch.cat([inside, outside])), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_only_the_order_of_scores_matters(scale: float):
    inside, outside = torch.rand(200, dtype=torch.float64), torch.rand(300, dtype=torch.float64).sqrt()
    assert auroc(scale * inside, scale * outside) == pytest.approx(by_pairs(inside, outside), abs=1e-6)
    assert auroc(outside, inside) == pytest.approx(1 - by_pairs(inside, outside), abs=1e-6)


def test_entropies_are_between_zero_and_log_c():
    p = torch.cat([torch.eye(4, dtype=torch.float64), torch.full((1, 4), 0.25, dtype=torch.float64)])
    assert entropy(p).tolist() == pytest.approx([0.0] * 4 + [math.log(4)])
    random = torch.randn(50, 6, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(entropy(random), Categorical(random).entropy())


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(DataError, match=r"auroc: expected at least one example, found outside of shape \(0,\)"):
        auroc(torch.ones(3), torch.ones(0))
    with pytest.raises(DataError, match="auroc: expected finite inside, found 1 of 2"):
        auroc(torch.tensor([1.0, math.inf]), torch.ones(1))
    with pytest.raises(DataError, match="entropy: expected rows of probabilities"):
        entropy(torch.tensor([[3.0, -1.0]]))
