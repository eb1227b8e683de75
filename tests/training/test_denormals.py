"""Denormal numbers are zero while training, and only then."""

from __future__ import annotations

import pytest
import torch

from bayesprune.distributions import FlatteningPrior
from bayesprune.training import Settings, fit
from bayesprune.training.devices import flush_denormals
from tests.training.normal_weights import regression, targets
from tests.training.problems import REST
from tests.training.test_checkpoints import Stopped


def flushes() -> bool:
    return bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2 == 0)


@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_zero_within_the_context_alone(before: bool) -> None:
    if not torch.set_flush_denormal(before):
        pytest.skip("this processor cannot")
    try:
        with flush_denormals():
            assert flushes()
            with flush_denormals():
                assert flushes()
            assert flushes()
        assert flushes() == before
        with pytest.raises(Stopped), flush_denormals():
            raise Stopped
        assert flushes() == before
    finally:
        torch.set_flush_denormal(False)


def test_fit_leaves_denormal_numbers_as_they_were() -> None:
    seen = []
    net = regression(FlatteningPrior(1e-3))
    net.net[2].register_forward_hook(lambda module, *_: seen.append(flushes()) if module.training else None)
    fit(net, targets(), epochs=1, settings=Settings(schedule=REST))
    assert all(seen) and len(seen) == 12 and not flushes()
