"""The learning rate of a run."""

from __future__ import annotations

import pytest

from bayesprune.optim.rates import learning_rate, warmup_steps


@pytest.mark.parametrize(("epochs", "steps", "warm"), [(40, 469, 200), (10, 20, 20), (1, 5, 1)])
def test_learning_rate(epochs: int, steps: int, warm: int) -> None:
    """Linear over ``warm`` steps (200, at most a tenth of the run), times half a cosine."""
    total = epochs * steps
    assert warmup_steps(total) == warm
    rates = [learning_rate(step, total, warm) for step in range(total + 1)]
    assert rates[0] == pytest.approx(1 / warm)
    assert rates[total] == pytest.approx(0, abs=1e-12)
    if warm < total // 2:
        assert rates[total // 2] == pytest.approx(0.5, abs=4 / total)
        assert rates[:warm] == sorted(rates[:warm])
    falling = rates[warm:total]
    assert falling == sorted(falling, reverse=True) and all(0 < factor <= 1 for factor in falling)
