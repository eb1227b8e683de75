"""A clean session for every test: an empty parameter store, Pyro's validation on, the seed that it asks for."""

from collections.abc import Iterator

import pyro
import pytest
import torch

torch.set_num_threads(1)  # the networks are so small that a second thread costs more than it gains


@pytest.fixture(autouse=True)
def clean_session(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("seed")
    pyro.clear_param_store()
    pyro.set_rng_seed(marker.args[0] if marker else 0)
    with pyro.validation_enabled(True):
        yield


@pytest.fixture
def free_surgery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removals pay at once, also in runs so short that structures would wait to the end of settling."""
    monkeypatch.setattr("bayesprune.methods.svi.payoff.SURGERY", 0.0)
