"""When a run looks after its Normal weights."""

from __future__ import annotations

import pytest

from bayesprune.methods.svi.normal_weights import count_due, divergence_due, divergence_share, scales_due
from bayesprune.training import Schedule


@pytest.mark.parametrize(
    ("steps", "every", "apart"),
    [(90, 4, 4), (7_999, 4, 4), (8_000, 4, 8), (12_000, 4, 12), (16_000, 4, 16), (10**6, 4, 16), (10**6, 1, 4)],
)
def test_variances_take_a_thousand_steps_before_these_become_rarer(steps: int, every: int, apart: int) -> None:
    schedule = Schedule(1, steps)
    due = [step for step in range(100) if scales_due(schedule, step, every)]
    assert due == list(range(0, 100, apart))
    assert steps // apart >= 1000 or apart == every


@pytest.mark.parametrize(("steps", "apart"), [(31, 8), (40, 10), (469, 117)])
def test_within_an_epoch_the_divergence_is_looked_at_some_times_and_not_after_every_step(
    steps: int, apart: int
) -> None:
    """At its end prices are, and the divergence with them."""
    schedule = Schedule(500, steps)
    due = [step + 1 for step in range(5 * steps) if divergence_due(schedule, step)]
    assert due == [done for done in range(apart, 5 * steps, apart) if done % steps]


@pytest.mark.parametrize(("epochs", "steps"), [(10, 19), (39, 5), (150, 1), (400, 14), (2, 3)])
@pytest.mark.parametrize("slab_by", [0.3, 1.0])
def test_parameters_are_counted_ten_times_and_steps_follow_each(epochs: int, steps: int, slab_by: float) -> None:
    schedule = Schedule(epochs, steps, slab_by=slab_by)
    due = [epoch for epoch in range(epochs) if count_due(schedule, epoch)]
    left = epochs - int(slab_by * epochs)
    assert 1 <= len(due) <= 20 and max(due) < epochs - 1 and len(due) >= min(10, left - 1)
    assert slab_by == 1 or divergence_share(schedule, (due[0] + 1) * steps) == 1


@pytest.mark.parametrize("slab_by", [0.3, 0.0])
def test_a_run_of_one_epoch_counts_none(slab_by: float) -> None:
    assert not count_due(Schedule(1, 50, slab_by=slab_by), 0)
