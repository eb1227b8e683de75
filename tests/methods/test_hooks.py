"""What methods may do by their hooks, and what `fit` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.errors import CheckpointError, ConfigError
from bayesprune.infer import LearnedGaussian
from bayesprune.methods import NAMES, Decision, Method, Needs, Phase, Run, Site, get_method
from bayesprune.methods.magnitude import Magnitude
from bayesprune.methods.none import Plain
from bayesprune.methods.svi.method import SVI
from bayesprune.training import Settings, fit
from tests.methods.toys import (
    EPOCHS,
    Rewinding,
    Ridge,
    Viewed,
    batches,
    dropping,
    made,
    network,
    train,
)
from tests.training.problems import EXAMPLES, Batches, bayesian, examples, units


def test_views_are_baked_in_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    order = [name for name, _ in net.named_parameters()]
    method = Viewed()
    history = fit(net, batches(), epochs=3, method=method, settings=Settings(lr=0.02), val_loader=batches())
    assert [name for name, _ in net.named_parameters()] == order
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not any("weight" in vars(module) for module in net.modules())
    for layer in (net[0], net[2]):
        assert int((layer.weight == 0).sum()) == (layer.weight.numel() - 1) // 2
    x, y = examples()
    nll = float(F.cross_entropy(net.eval()(x), y).detach())
    assert nll == pytest.approx(history.rows[-1].val_nll, rel=1e-5)  # in eval mode the run computed with them too
    assert float(method.scale.detach()) != 1.0


def test_views_of_outputs() -> None:
    torch.manual_seed(0)
    net = units()
    x = examples()[0]
    expected, seen = network(net)[0](x) / 2, []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output), prepend=False)

    class Halved(Method):
        name = "halved"

        def setup(self, run: Run) -> Needs:
            return Needs(views=frozenset({"output"}))

        def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
            seen.append((site.name, value))
            return value / 2

    fit(net, batches(), epochs=1, method=Halved(), settings=Settings(lr=1e-12))
    assert {entry[0] for entry in seen if isinstance(entry, tuple)} == {"0", "1"}
    seen.clear()
    torch.testing.assert_close(net[0](x), 2 * expected)  # taken away again


def test_undeclared_views_are_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "view", lambda *_: pytest.fail("called"))
    for name in NAMES:
        train(name, epochs=3, **({"settings": Settings(lr=0.02)} if name == "svi" else {}))


def test_masks_are_lifted() -> None:
    """Dense, sparse, dense: weights go on from 0, and are free again."""

    class DenseSparseDense(Method):
        name = "dsd"

        def setup(self, run: Run) -> Needs:
            return Needs((Phase("dense"), Phase("sparse"), Phase("dense again", lr=0.1)))

        def decide(self, run: Run) -> Decision:
            if run.phase.name == "dense":
                return Decision(masks={"0.weight": run.sites[0].weight.detach().abs() > 0.1})
            held.append((run.sites[0].weight == 0).sum())
            return Decision(lift=True)

    held: list[Tensor] = []
    torch.manual_seed(0)
    net = dropping()
    fit(net, batches(), epochs=3, method=DenseSparseDense(), settings=Settings(lr=0.02))
    assert int(held[0]) > 20 and int((net[0].weight == 0).sum()) == 0


def test_rows_that_masks_leave_nothing_of_are_cut_where_they_have_gates() -> None:
    class Row(Method):
        name = "row"

        def decide(self, run: Run) -> Decision:
            mask = torch.ones(6, 8, dtype=torch.bool)
            mask[[1, 4]] = False
            return Decision(masks={"1.weight": mask})

    torch.manual_seed(0)
    net = units()
    history = fit(net, batches(), epochs=1, method=Row(), settings=Settings())
    assert [(r.gate, r.index) for r in history.removals] == [("1", 1), ("1", 4)]
    assert net[1].weight.shape == (4, 8) and history.rows[0].macs == 4 * 8 + 4 * 2


def test_a_plain_network_with_real_targets_learns_its_noise() -> None:
    torch.manual_seed(0)
    x, _ = examples()
    y = x[:, :1] + 0.1 * torch.randn(EXAMPLES, 1)
    likelihood = LearnedGaussian(prior_count=50.0)
    how = Settings(lr=0.05)
    row = fit(nn.Linear(8, 1), Batches(x, y), epochs=8, method="none", likelihood=likelihood, settings=how).rows[-1]
    assert float(likelihood.learned_noise.detach()) < 0.4  # it began at 1
    penalty = float(likelihood.penalty().detach()) / EXAMPLES
    assert abs(penalty) > 1e-3 and row.loss - row.nll == pytest.approx(penalty, rel=1e-4)


def test_combinations_that_make_no_sense() -> None:
    loader, bnn = batches(), bayesian(units())
    for call, says in (
        (lambda: fit(units(), loader, epochs=1), r"expected a BayesianNet, got a Sequential; wrap it"),
        (lambda: fit(units(), loader, epochs=1, method="svi"), r"method='none'"),
        (lambda: fit(bnn, loader, epochs=1, method="none"), "trains a network without a posterior, got a BayesianNet"),
        (lambda: fit(bnn, loader, epochs=1, likelihood="gaussian"), "has a likelihood of its own"),
        (
            lambda: fit(units(), loader, epochs=1, method="nonsense"),
            "unknown method 'nonsense'; known are " + ", ".join(NAMES),
        ),
        (lambda: fit(units(), loader, epochs=1, method="none", settings=Settings(every=2)), "Settings.every is about"),
        (
            lambda: fit(units(), loader, epochs=1, method=Rewinding()),
            "epochs=1 is too short a run for the phases mask, again",
        ),
        (lambda: fit(units(), loader, epochs=1, method=Ridge()), "method 'ridge' needs a val_loader"),
        (lambda: Magnitude(1.0), "sparsity must be"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "given", "says"),
    [
        ("setup", None, "method 'forgetful': setup must return Needs, got NoneType"),
        ("decide", None, "method 'forgetful': decide must return a Decision, got NoneType"),
        ("decide", Decision(note={"sparsity": 0.5}), "a row has no field 'sparsity'; it has epoch, phase,"),
    ],
)
def test_a_hook_that_gives_something_else_is_named(hook: str, given: object, says: str) -> None:
    class Forgetful(Method):
        name = "forgetful"

    method = Forgetful()
    setattr(method, hook, lambda run: given)
    with pytest.raises(ConfigError, match=says):
        fit(units(), batches(), epochs=1, method=method)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    train("magnitude", out=tmp_path)
    model, how = made("magnitude", sparsity=0.5)
    with pytest.raises(CheckpointError, match="its settings is"):
        fit(model, batches(), epochs=EPOCHS, out=tmp_path, **how)
    model, how = made("none")
    with pytest.raises(CheckpointError, match="its method is 'magnitude', here it is 'none'"):
        fit(model, batches(), epochs=EPOCHS, out=tmp_path, **how)


def test_names_are_those_of_the_files() -> None:
    assert list(NAMES) == sorted(NAMES) and [get_method(name).name for name in NAMES] == list(NAMES)
    assert [type(get_method(name)) for name in ("magnitude", "none", "svi")] == [Magnitude, Plain, SVI]


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.25, 0.7), (0.5, 0.8), (1.0, 0.8)])
def test_the_share_of_magnitude_by_hand(progress: float, share: float) -> None:
    """0.8 (1 − (1 − ½)³) = 0.7 at half of the way to the middle of the run."""
    assert Magnitude(0.8, until=0.5).share(progress) == pytest.approx(share)
