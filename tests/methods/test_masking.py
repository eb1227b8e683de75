"""Methods that mask weights: which, when, and what becomes of those that are masked; answers known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.errors import ConfigError
from bayesprune.infer.likelihoods import Gaussian
from bayesprune.methods import Method, Run, get_method
from bayesprune.methods.dsd import DenseSparseDense
from bayesprune.methods.iss import IterativeSoftShrinkage
from bayesprune.methods.large_weights import LargeWeights
from bayesprune.methods.lottery import LotteryTicket
from bayesprune.methods.protocol.ranking import smallest, smallest_weights, whole_part
from bayesprune.methods.targeted_dropout import TargetedDropout, risen, targeted
from bayesprune.training import Settings, fit
from bayesprune.training.trainer import Trainer
from tests.methods.toys import batches
from tests.training.problems import Batches


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def zeros(net: nn.Module) -> list[int]:
    return [int((layer.weight == 0).sum()) for layer in net if isinstance(layer, nn.Linear)]


def still(net: nn.Module, method: Method, epochs: int, **settings: Any) -> nn.Module:
    """Train where nothing is learnt: what changes is what the method does."""
    fit(net, batches(), epochs=epochs, method=method, settings=Settings(lr=1e-30, **settings))
    return net


def test_the_smallest_are_chosen_row_by_row_and_the_first_of_equal_ones() -> None:
    values = torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert smallest(values, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert smallest_weights(torch.tensor([-0.1, 3.0]), 1.0).tolist() == [True, False]  # one is left
    kept = torch.tensor([True, False, True])
    assert smallest_weights(torch.tensor([1.0, 9.0, -2.0]), 0.67, kept).tolist() == [True, True, False]


def test_the_smallest_are_those_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        values = torch.randint(0, 5, (3, 11), generator=generator).float()  # with many that are equal
        count = int(torch.randint(0, 12, (), generator=generator))
        expected = torch.zeros(3, 11, dtype=torch.bool)
        expected.scatter_(-1, values.argsort(dim=-1, stable=True)[:, :count], True)
        assert torch.equal(smallest(values, count), expected)


@pytest.mark.parametrize("share", [0.29, 0.55, 0.57, 0.58, 0.69])
def test_whole_parts_are_those_of_numbers(share: float) -> None:
    """⌊γ n⌋ where γ n is whole but floats give less."""
    assert whole_part(share, 100) == round(100 * share) and whole_part(share, 10) == int(10 * share)
    assert int(targeted(torch.arange(100.0)[None], share).sum()) == round(100 * share)


def test_weights_that_rested_go_on_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares of unit vectors: what is kept finds a, the others are 0, and in the end all find a.

    Momentum of what is masked is 0 throughout.
    """
    a = torch.tensor([2.0, -0.5, 1.5, 0.25])
    x = torch.eye(4).repeat(10, 1)
    net = nn.Sequential(nn.Linear(4, 1, bias=False))
    nn.init.zeros_(net[0].weight)
    ends: list[Tensor] = []
    stepped, begin = Trainer.train_step, Trainer._begin_phase

    def spied(run: Trainer) -> None:
        if run.epoch % 300 == 0:
            ends.append(net[0].weight.detach().clone()[0])
        begin(run)

    def checked(run: Trainer, *args: Any) -> Tensor:
        loss = stepped(run, *args)
        for mask in run.masks.values():
            moments = run.optimizer.state[net[0].weight]["momentum_buffer"]
            assert bool((moments[~mask] == 0).all())
        return loss

    monkeypatch.setattr(Trainer, "_begin_phase", spied)
    monkeypatch.setattr(Trainer, "train_step", checked)

    def momentum(p: Any, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=lr, momentum=0.5)

    fit(
        net, Batches(x, (x @ a)[:, None], 40), epochs=900, method=DenseSparseDense(0.5), likelihood=Gaussian(1.0),
        settings=Settings(lr=0.5, optimizer=momentum),
    )  # fmt: skip
    assert len(ends) == 3
    for end in ends[1:]:
        torch.testing.assert_close(end, a * torch.tensor([1.0, 0.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(net[0].weight.detach()[0], a, atol=2e-2, rtol=0)


def test_no_unit_goes_that_is_to_come_back() -> None:
    net = nn.Sequential(layers.Linear(8, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].weight[2] *= 1e-3
    history = fit(net, batches(), epochs=3, method=DenseSparseDense(0.5), settings=Settings(lr=1e-30))
    assert history.removals == [] and net[0].weight.shape == (6, 8)
    assert int((net[0].weight[2].abs() < 1e-20).sum()) == 7  # they went on from 0


def test_small_weights_shrink_by_the_factor_at_every_step() -> None:
    """Without a gradient: [1, −0.2, 0.1, 0.5], half of which shrinks three times by 0.95, and is 0 then."""
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 2))
    net[0].weight.data = torch.tensor([[1.0, -0.2, 0.1, 0.5]])
    seen: list[Tensor] = []

    class Watched(IterativeSoftShrinkage):
        name = "watched"

        def stepped(self, run: Run) -> None:
            super().stepped(run)
            seen.append(net[0].weight.detach()[0].clone())

    x = torch.zeros(6, 4)
    fit(
        net, Batches(x, torch.zeros(6, dtype=torch.long), 2), epochs=2, method=Watched(0.5, 0.95),
        settings=Settings(lr=1e-30),
    )  # fmt: skip
    expected = torch.tensor([1.0, -0.2 * 0.95**3, 0.1 * 0.95**3, 0.5])
    torch.testing.assert_close(seen[2], expected)
    assert net[0].weight[0].tolist() == [1.0, 0.0, 0.0, 0.5]


def test_history_says_how_many_weights_are_kept_at_0() -> None:
    net = network()
    history = fit(net, batches(), epochs=2, method=IterativeSoftShrinkage(0.5, 0.0), settings=Settings(lr=1e-30))
    assert [row.masked for row in history.rows][-1] == sum(zeros(net)) == 30
    assert "of which masks keep 30 at 0" in repr(history)


def test_without_a_factor_weights_are_cut_hard() -> None:
    net = still(network(), IterativeSoftShrinkage(0.5, 0.0), 2)
    assert zeros(net) == [24, 6]


def test_a_ticket_loses_a_share_of_each_layer_at_a_time_and_starts_anew() -> None:
    net = network()
    initial = [p.detach().clone() for p in net.parameters()]
    fit(net, batches(), epochs=3, method=LotteryTicket(share=0.25, cycles=3), settings=Settings(lr=1e-30))
    assert zeros(net) == [48 - round(48 * 0.75**2), 12 - round(12 * 0.875**2)]
    for now, then in zip(net.parameters(), initial, strict=True):
        assert torch.equal(now[now != 0], then[now != 0])
    weight, sizes = net[0].weight.detach(), initial[0].abs().flatten().sort().values
    assert float(weight[weight != 0].abs().min()) == float(sizes[48 - round(48 * 0.75**2)])


def test_targets_are_the_smallest_weights_of_each_output_and_get_no_gradient() -> None:
    assert targeted(torch.tensor([[0.1, -0.2, 0.3, -0.4], [0.0] * 4]), 0.5).tolist() == [[True, True, False, False]] * 2
    method = TargetedDropout(gamma=0.5, alpha=1.0)
    assert [risen(0.5, 1.0, t) for t in (0.0, 0.2, 0.3, 0.4)] == [
        (0.0, 0.0), (0.475, 0.5), (pytest.approx(0.4875), pytest.approx(0.75)), (0.5, 1.0),
    ]  # fmt: skip
    net = network()
    run: Any = type("Late", (), {"progress": 0.5, "generator": torch.Generator(), "sites": ()})()
    method.last = "2.weight"
    site: Any = type("At", (), {"name": "0.weight", "layer": net[0], "kind": "weight"})()
    weight = torch.tensor([[0.1, -0.2, 0.3, -0.4]], requires_grad=True)
    net[0].train()
    found = method.view(site, weight, run)
    assert found.tolist() == [[0.0, 0.0, pytest.approx(0.3), pytest.approx(-0.4)]]
    found.sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    net[0].eval()
    assert method.view(site, weight, run) is weight


def test_the_share_of_a_run_that_is_kept_while_training() -> None:
    """1 − γ α of the weights in the long run: 200,000 draws, off by 4 standard deviations once in 16,000."""
    method = TargetedDropout(gamma=0.75, alpha=0.66)
    method.last = ""
    net = nn.Linear(100, 200)
    run: Any = type("Late", (), {"progress": 1.0, "generator": torch.Generator().manual_seed(0)})()
    site: Any = type("At", (), {"name": "x", "layer": net, "kind": "weight"})()
    kept = sum(float((method.view(site, net.weight, run) != 0).float().mean()) for _ in range(10)) / 10
    assert kept == pytest.approx(1 - 0.75 * 0.66, abs=4 * (0.75 * 0.66 * 0.34 / 2e5) ** 0.5)


def test_what_was_targeted_is_0_in_the_end_but_in_the_last_layer() -> None:
    assert zeros(still(network(), TargetedDropout(gamma=0.5), 2)) == [24, 0]


def test_the_largest_weights_go_first() -> None:
    method = LargeWeights(sparsity=0.5, events=1, until=0.5)
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 2))
    net[0].weight.data = torch.tensor([[1.0, -5.0, 2.0, -3.0]])
    fit(
        net, Batches(torch.zeros(4, 4), torch.zeros(4, dtype=torch.long), 4), epochs=2, method=method,
        settings=Settings(lr=1e-30),
    )  # fmt: skip
    assert net[0].weight[0].tolist() == [1.0, 0.0, 2.0, 0.0]
    assert [LargeWeights(0.9, 3).left(10, event) for event in (1, 2, 3)] == [7, 4, 1]
    assert zeros(still(network(), LargeWeights(0.75, 3, 0.75), 4)) == [36, 9]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("dsd", {"sparsity": 1.0}), ("iss", {"factor": 1.0}), ("iss", {"until": 1.0}), ("lottery", {"share": 0}),
        ("lottery", {"cycles": 0}), ("targeted_dropout", {"gamma": 1.0}), ("targeted_dropout", {"alpha": 0.0}),
        ("large_weights", {"events": 0}), ("large_weights", {"sparsity": 1.0}),
    ],
)  # fmt: skip
def test_bad_settings(name: str, how: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(how))}"):
        get_method(name, **how)


def test_nothing_to_target() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(8, 2)
    with pytest.raises(ConfigError, match="less than one in every layer but the last"):
        fit(net, Batches(x, torch.zeros(8, dtype=torch.long), 4), epochs=1, method=TargetedDropout(gamma=0.4))
