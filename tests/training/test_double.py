"""Networks in float64, by ``double()`` or by torch's default, give the numbers of float32 up to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.distributions import FixedInclusion
from bayesprune.infer import BayesianNet, LearnedGaussian
from bayesprune.pruning import CostPrice
from bayesprune.sklearn import BayesPruneClassifier, BayesPruneRegressor
from bayesprune.training import Budget, EpochRow, Settings, fit
from tests.training.problems import EXAMPLES, Batches, bayesian, branches, convolutional, examples, units

REST = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def gates_on(make: Callable[[], nn.Module], weights: dict[str, Tensor], dtype: torch.dtype) -> BayesianNet:
    """With all gates on for certain, so that nothing of a step is drawn."""
    net = bayesian(make()).to(dtype)
    net.load_state_dict(weights)
    with torch.no_grad():
        net.theta.fill_(1.0)
    return net


@pytest.mark.parametrize("by_default", [True, False])
@pytest.mark.parametrize(("make", "images"), [(units, False), (branches, False), (convolutional, True)])
def test_weights_move_as_in_single_precision(
    make: Callable[[], nn.Module], images: bool, by_default: bool, tmp_path: Path
) -> None:
    x, y = examples()
    x = x[:, None] if images else x
    start = copy.deepcopy(bayesian(make()).state_dict())
    found: list[tuple[list[EpochRow], Tensor, dict[str, Tensor], Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        with default(dtype if by_default else torch.float32):
            net = gates_on(make, start, dtype)
            data = Batches(x.to(dtype), y)
            history = fit(net, data, epochs=2, val_loader=data, settings=Settings(schedule=REST))
            assert {p.dtype for p in net.net.parameters()} == {net.theta.dtype} == {dtype}
            small = bp.compact(net.eval())
            bp.save(small, tmp_path / "small.safetensors")
            outputs = bp.load(tmp_path / "small.safetensors")(x.to(dtype))
            assert outputs.dtype == dtype and torch.equal(outputs, small(x.to(dtype)))
            found.append((history.rows, outputs.detach(), net.weights(), net.predict(x.to(dtype), 0).mean))
    single, double = found
    for mine, other in zip(single[0], double[0], strict=True):
        assert (mine.nll, mine.loss, mine.val_nll) == pytest.approx((other.nll, other.loss, other.val_nll), rel=1e-4)
        assert (mine.gates_left, mine.params, mine.macs) == (other.gates_left, other.params, other.macs)
    assert torch.allclose(single[1].double(), double[1], atol=1e-3)
    assert torch.allclose(single[3].double(), double[3], atol=1e-3)
    assert all(torch.allclose(p.double(), double[2][name], atol=1e-3) for name, p in single[2].items())


RUNS: dict[str, dict] = {
    "gates": {},
    "branches": {"make": branches},
    "normal": {"slab": "normal", "temperature": 0.3},
    "fixed": {"slab": "normal", "prior": FixedInclusion(0.3), "lr": 0.1},
    "price": {"price": CostPrice(0.1)},
    "budget": {"budget": Budget("macs", 0.6)},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_double_as_torchs_default(options: dict, tmp_path: Path) -> None:
    options = {"make": units, "slab": "point", "lr": 0.02, **options}
    with default(torch.float64):
        x, y = examples()[0].double(), examples()[1]
        prior = options.pop("prior", bp.distributions.FlatteningPrior(2.0))
        net = BayesianNet(options.pop("make")(), num_data=EXAMPLES, slab=options.pop("slab"), prior=prior)
        settings = Settings(every=1, **options)
        history = fit(net, Batches(x, y), epochs=8, settings=settings, out=tmp_path)
        assert history.rows[-1].nll < 0.7 * history.rows[0].nll
        assert net.theta.dtype == net.predict(x, 3).mean.dtype == torch.float64
        again = fit(BayesianNet(units(), num_data=EXAMPLES), Batches(x, y), epochs=1, settings=Settings(schedule=REST))
        assert len(again.rows) == 1


def test_learned_noise_in_double() -> None:
    with default(torch.float64):
        x = examples()[0].double()
        net = bayesian(units(), likelihood=LearnedGaussian(), slab="normal")
        history = fit(net, Batches(x, x[:, :2]), epochs=6, settings=Settings(lr=0.02, every=1, temperature=0.3))
        assert history.rows[-1].nll < history.rows[0].nll
        assert net.likelihood.log_scale.dtype == torch.float64


def test_selection_does_not_depend_on_the_default() -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        with default(dtype):
            problem = bp.selection.sparse_regression(40, 6, 2, correlation=0.3, seed=3)
            posterior = bp.selection.enumerate_models(problem.x, problem.y, inclusion=0.3)
            mean_field = bp.selection.mean_field(problem.x, problem.y, inclusion=0.3)
            other = bp.selection.friedman_regression(20, 6, seed=1)
            found.append(
                (problem.x, problem.y, posterior.inclusion, posterior.mean, mean_field.inclusion, other.x, other.y)
            )
    for single, double in zip(*found, strict=True):
        assert torch.equal(single, double) and single.dtype == double.dtype


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [BayesPruneRegressor, BayesPruneClassifier])
def test_estimators_do_not_depend_on_the_default(estimator: type) -> None:
    x = examples()[0].numpy()
    y = x[:, 0] if estimator is BayesPruneRegressor else examples()[1].numpy()
    found = []
    for dtype in (torch.float32, torch.float64):
        with default(dtype):
            fitted = estimator((6,), epochs=12, random_state=0).fit(x, y)
            found.append((fitted.predict(x), fitted.inclusion_probabilities_, fitted.compact_))
    (single, mine, small), (double, others, other) = found
    assert single.dtype == double.dtype
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mine, others, rtol=0, atol=1e-5)
    assert {p.dtype for p in small.parameters()} == {p.dtype for p in other.parameters()}
