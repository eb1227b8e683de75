"""All gates of a network drawn at once: exact ends, right frequencies, independence."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli

from bayesprune.infer import GateDraws
from bayesprune.infer.draws import bernoulli_rows
from bayesprune.layers.gate import DISTINCT, REPEATS
from tests.infer.verify import verify_mean

STEP = 2.0**-15


def test_zero_is_never_on_and_one_never_off() -> None:
    probs = torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0])
    xi = bernoulli_rows(probs, 200_000)
    assert not xi[:, [0, 3]].any() and bool(xi[:, [1, 4]].all())
    assert set(xi.unique().tolist()) == {0.0, 1.0}


def test_dtype_and_shape_for_every_remainder_of_four_lanes() -> None:
    for rows in range(1, 6):
        for count in range(1, 6):
            xi = bernoulli_rows(torch.full((count,), 0.5, dtype=torch.float64), rows)
            assert xi.shape == (rows, count) and xi.dtype == torch.float64


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frequencies(dtype: torch.dtype) -> None:
    """Exact binomial tests at 6e-5 each, 13 probabilities."""
    probs = torch.tensor(
        [STEP, 2 * STEP, 3 * STEP, 1e-3, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.999, 1 - 3 * STEP, 1 - 2 * STEP, 1 - STEP],
        dtype=dtype,
    )
    rows = 400_000
    hits = bernoulli_rows(probs, rows).sum(0, dtype=torch.float64)
    for count, p in zip(hits.tolist(), probs.tolist(), strict=True):
        rounded = round(p / STEP) * STEP
        assert abs(rounded - p) <= STEP / 2
        assert stats.binomtest(int(count), rows, rounded).pvalue > 6e-5, (count, p)


def test_probabilities_below_half_a_step_round_to_never() -> None:
    probs = torch.tensor([0.49 * STEP, 1 - 0.49 * STEP], dtype=torch.float64)
    xi = bernoulli_rows(probs, 300_000)
    assert not xi[:, 0].any() and bool(xi[:, 1].all())


@pytest.mark.statistical
@pytest.mark.parametrize("count", [3, 4, 5])
def test_gates_are_independent_of_each_other(count: int) -> None:
    """Chi-square over all 2^S patterns, at 1e-4; four gates share a random word lane for lane."""
    probs = torch.linspace(0.3, 0.7, count)
    rows = 100_000
    xi = bernoulli_rows(probs, rows).long()
    observed = torch.bincount((xi << torch.arange(count)).sum(1), minlength=2**count)
    bits = (torch.arange(2**count)[:, None] >> torch.arange(count)) & 1
    rounded = (probs.double() / STEP).round() * STEP
    expected = rows * torch.where(bits > 0, rounded, 1 - rounded).prod(1)
    assert stats.chisquare(observed.numpy(), (expected * rows / expected.sum()).numpy()).pvalue > 1e-4


@pytest.mark.statistical
def test_rows_and_draws_are_uncorrelated() -> None:
    """Correlations of neighbours at lags 1 to 8, 4 standard errors, 6e-5 each."""
    flat = bernoulli_rows(torch.tensor([0.5]), 400_000)[:, 0].double() - 0.5
    for lag in range(1, 9):
        product = flat[:-lag] * flat[lag:]
        assert abs(float(product.mean())) <= 4 * 0.25 / len(product) ** 0.5


def test_shared_gates_have_one_value_for_all_rows() -> None:
    probs = torch.full((6,), 0.5)
    draws = GateDraws(probs, rows=5, shared=2).sample((400,))
    assert draws.shape == (400, 5, 6)
    assert torch.equal(draws[..., :2], draws[:, :1, :2].expand(-1, 5, -1))
    assert not torch.equal(draws[..., 2:], draws[:, :1, 2:].expand(-1, 5, -1))
    on = draws[:, 0, :2].mean(0)
    assert bool(((on - 0.5).abs() <= 4 * 0.5 / 400**0.5).all())


def test_log_prob_is_the_mean_over_rows_of_the_sum_of_bernoullis() -> None:
    probs = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    law = GateDraws(probs, rows=4)
    xi = law.sample()
    expected = Bernoulli(probs).log_prob(xi).sum(-1).mean()
    torch.testing.assert_close(law.log_prob(xi), expected)
    torch.testing.assert_close(law.log_prob(xi[0]), Bernoulli(probs).log_prob(xi[0]).sum())
    many = law.sample((7,))
    torch.testing.assert_close(law.log_prob(many), torch.stack([law.log_prob(one) for one in many]))


def test_log_prob_at_the_ends_is_zero_for_the_certain_and_finite_for_the_impossible() -> None:
    law = GateDraws(torch.tensor([0.0, 1.0]))
    assert law.log_prob(torch.tensor([[0.0, 1.0]])) == 0
    impossible = law.log_prob(torch.tensor([[1.0, 1.0]]))
    assert torch.isfinite(impossible) and impossible < -80


def test_log_prob_has_the_gradient_of_bernoullis() -> None:
    probs = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    xi = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    (actual,) = torch.autograd.grad(GateDraws(probs, rows=2).log_prob(xi), probs)
    (expected,) = torch.autograd.grad(Bernoulli(probs).log_prob(xi).sum(-1).mean(), probs)
    torch.testing.assert_close(actual, expected)


def test_moments_and_shapes() -> None:
    probs = torch.tensor([0.2, 0.5])
    law = GateDraws(probs, rows=3)
    assert law.batch_shape == () and law.event_shape == (3, 2)
    torch.testing.assert_close(law.mean, probs.expand(3, 2))
    torch.testing.assert_close(law.variance, torch.tensor([0.16, 0.25]).expand(3, 2))


def test_expand_refuses_a_batch() -> None:
    law = GateDraws(torch.tensor([0.5]))
    assert law.expand(torch.Size()) is law
    with pytest.raises(NotImplementedError, match="do not put the gates inside a plate"):
        law.expand(torch.Size([2]))


def test_probabilities_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="probs"):
        GateDraws(torch.tensor([0.5, 1.5]), validate_args=True)


def verify_distinct_rows(rows: int, distinct: int) -> Tensor:
    """Rows repeat with this period, and those of a period differ (two rows of 60 fair gates agree once in 1e18)."""
    xi = GateDraws(torch.full((60,), 0.5), rows=rows).sample()
    assert xi.shape == (rows, 60)
    assert torch.equal(xi, xi[torch.arange(rows) % distinct])
    assert len(xi[:distinct].unique(dim=0)) == distinct
    return xi


@pytest.mark.parametrize("rows", [1, 2, 31, DISTINCT])
def test_up_to_32_rows_are_all_drawn(rows: int) -> None:
    verify_distinct_rows(rows, rows)


@pytest.mark.parametrize(
    ("rows", "distinct"), [(33, 32), (64, 32), (127, 32), (128, 32), (129, 33), (256, 64), (1001, 251)]
)
def test_of_more_rows_every_fourth_is_drawn(rows: int, distinct: int) -> None:
    assert distinct == max(DISTINCT, -(-rows // REPEATS))
    verify_distinct_rows(rows, distinct)


@pytest.mark.statistical
@pytest.mark.parametrize("rows", [20, 200])
def test_the_law_of_every_row(rows: int) -> None:
    """Each row of a draw is on with probability π: 4.5 standard errors, 3 gates times up to 200 rows, 7e-6 each."""
    probs = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    draws = 4000
    frequency = GateDraws(probs, rows=rows).sample((draws,)).mean(0)
    assert frequency.shape == (rows, 3)
    assert bool(((frequency - probs).abs() <= 4.5 * (probs * (1 - probs) / draws).sqrt() + STEP).all())


@pytest.mark.statistical
@pytest.mark.parametrize(("rows", "distinct"), [(20, 20), (128, 32), (256, 64)])
def test_variance_of_the_mean_over_rows(rows: int, distinct: int) -> None:
    """Var = π(1 − π)/(distinct rows), where rows repeat equally often; sample variance within 4.5 standard errors."""
    draws = 6000
    means = GateDraws(torch.tensor([0.5], dtype=torch.float64), rows=rows).sample((draws,)).mean((1, 2))
    expected = 0.25 / distinct
    assert abs(float(means.var()) / expected - 1) <= 4.5 * (2 / draws) ** 0.5
    assert abs(float(means.mean()) - 0.5) <= 4.5 * (expected / draws) ** 0.5


def test_shared_gates_and_repeated_rows_together() -> None:
    xi = GateDraws(torch.full((40,), 0.5), rows=100, shared=3).sample((50,))
    assert torch.equal(xi[..., :3], xi[:, :1, :3].expand(-1, 100, -1))
    assert torch.equal(xi, xi[:, torch.arange(100) % DISTINCT])
    assert all(len(draw[:DISTINCT].unique(dim=0)) == DISTINCT for draw in xi)


@pytest.mark.parametrize("count", [0, 5])
def test_the_same_seed_gives_the_same_draws(count: int) -> None:
    law = GateDraws(torch.full((count,), 0.5), rows=3)
    torch.manual_seed(4)
    first = law.sample()
    torch.manual_seed(4)
    assert torch.equal(first, law.sample())


def score_slopes(law: GateDraws, table: Tensor, draws: int, groups: int) -> Tensor:
    """Score-function estimates of ∂/∂π E[mean over rows of table[ξ]], shape ``(groups, S)``."""
    slopes = []
    for _ in range(groups):
        xi = law.sample((draws,))
        values = table[(xi.long() << torch.arange(xi.shape[-1])).sum(-1)].mean(-1)
        score = law.score_parts(xi).score_function
        assert score.shape == (draws,)
        slopes.append(torch.autograd.grad((values * score).mean(), law.probs)[0])
    return torch.stack(slopes)


@pytest.mark.statistical
@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("rows", [1, 8, 60])
def test_the_score_function_is_unbiased_for_a_mean_over_rows(rows: int, shared: int) -> None:
    """Against enumeration, fails by chance at 6e-5 an entry; the score of a mean over rows is far off."""
    probs = torch.tensor([0.3, 0.6, 0.5], dtype=torch.float64, requires_grad=True)
    table = torch.tensor([0.0, 4.0, -2.0, 1.0, 3.0, -5.0, 2.0, 6.0], dtype=torch.float64)  # its bits are the gates
    bits = (torch.arange(8)[:, None] >> torch.arange(3)) & 1
    (truth,) = torch.autograd.grad((torch.where(bits > 0, probs, 1 - probs).prod(1) * table).sum(), probs)
    slopes = score_slopes(GateDraws(probs, rows, shared), table, draws=600, groups=40)
    verify_mean(slopes, truth, f"{rows} rows, {shared} shared")
    assert float(slopes.std(0).max()) / 40**0.5 < 0.2 * float(truth.abs().max())  # or it would say little


@pytest.mark.parametrize(("rows", "shared"), [(1, 0), (1, 2), (5, 0), (5, 2), (100, 0), (100, 2), (5, 4)])
def test_score_parts_sum_what_was_drawn_and_average_the_log_probability(rows: int, shared: int) -> None:
    probs = torch.tensor([0.2, 0.5, 0.9, 0.4], dtype=torch.float64)
    law = GateDraws(probs, rows, shared)
    xi = law.sample((3,))
    each = Bernoulli(probs).log_prob(xi)
    drawn = each[:, : min(rows, DISTINCT), shared:].sum((1, 2)) + each[:, 0, :shared].sum(-1)
    parts = law.score_parts(xi)
    torch.testing.assert_close(parts.score_function, drawn)
    torch.testing.assert_close(parts.log_prob, law.log_prob(xi))
    assert parts.entropy_term == 0
    scaled = parts.scale_and_mask(0.25, torch.tensor(True))
    torch.testing.assert_close(scaled.log_prob, 0.25 * parts.log_prob)
    torch.testing.assert_close(scaled.score_function, drawn)
    one = law.score_parts(xi[0, 0])
    torch.testing.assert_close(one.score_function, each[0, 0].sum())
