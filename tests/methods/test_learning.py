"""Methods that go by how weights move: answers known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprune.methods import Run
from bayesprune.methods.learn_drop import LearnAndDrop
from bayesprune.methods.magnitude import Magnitude
from bayesprune.methods.movement import Movement
from bayesprune.training import Settings, fit
from bayesprune.training.trainer import Trainer
from tests.methods.toys import batches
from tests.training.problems import Batches, examples


def sgd(p: Any, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(p, lr=lr)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def test_a_score_is_minus_the_sum_of_weight_times_slope() -> None:
    """Two steps of SGD by hand; masked weights stay as they are, and are scored."""
    net, x, y = plain(), *examples(40)
    mine = plain()
    found: list[tuple[list[Tensor], list[Tensor]]] = []

    class Watched(Movement):
        name = "watched"

        def stepped(self, run: Run) -> None:
            layers_now = [net[0].weight, net[2].weight]
            found.append(([s.detach().clone() for s in self.score], [w.detach().clone() for w in layers_now]))

    fit(net, Batches(x, y, 40), epochs=4, method=Watched(sparsity=0.9, until=0.5),
        settings=Settings(lr=0.5, optimizer=sgd))  # fmt: skip
    linear = [mine[0], mine[2]]
    scores = [torch.zeros_like(layer.weight) for layer in linear]
    order = Batches(x, y, 40)
    from bayesprune.optim.rates import learning_rate, warmup_steps

    for step in range(2):
        order.set_epoch(step)
        ((inputs, targets),) = order
        rate = 0.5 * learning_rate(step, 4, warmup_steps(4))
        share = 0.9 * (1 - (1 - min(1.0, step / 4 / 0.5)) ** 3)
        masks = []
        for score in scores:
            flat = score.flatten().argsort(stable=True)[: min(round(share * score.numel()), score.numel() - 1)]
            mask = torch.ones(score.numel())
            mask[flat] = 0.0
            masks.append(mask.view(score.shape))
        used = [(layer.weight * mask).detach().requires_grad_() for layer, mask in zip(linear, masks, strict=True)]
        outputs = F.linear(F.relu(F.linear(inputs, used[0], linear[0].bias)), used[1], linear[1].bias)
        slopes = torch.autograd.grad(
            F.cross_entropy(outputs, targets), [*used, linear[0].bias, linear[1].bias]
        )  # fmt: skip
        with torch.no_grad():
            for k, layer in enumerate(linear):
                scores[k] = scores[k] - rate * layer.weight * slopes[k]
                layer.weight -= rate * slopes[k] * masks[k]
                layer.bias -= rate * slopes[2 + k]
        for theirs, ours in zip(
            (*found[step][0], *found[step][1]), (*scores, *(m.weight for m in linear)), strict=True
        ):
            torch.testing.assert_close(theirs, ours.detach(), rtol=1e-4, atol=1e-7)


def test_weights_that_move_to_0_go_and_as_many_as_were_asked_for() -> None:
    net = plain()
    fit(net, batches(), epochs=4, method=Movement(sparsity=0.75), settings=Settings(lr=0.02))
    assert [int((net[k].weight == 0).sum()) for k in (0, 2)] == [36, 9]


@pytest.mark.parametrize("layerwise", [True, False])
def test_all_at_once(layerwise: bool) -> None:
    """Nothing is 0 before half of the run, and the whole share after it."""
    net, seen = plain(), []
    with torch.no_grad():
        net[2].weight.mul_(100)
    fit(net, batches(), epochs=4, method=Magnitude(0.5, layerwise=layerwise, gradual=False),
        settings=Settings(lr=1e-30), on_epoch=lambda row: seen.append([int((net[k].weight == 0).sum()) for k in (0, 2)])
        )  # fmt: skip
    assert seen == [[0, 0], *[[24, 6] if layerwise else [30, 0]] * 3]


# learning and resting ----------------------------------------------------------------------------------------------


def test_the_score_of_a_layer_is_its_smoothed_change_by_the_largest() -> None:
    method = LearnAndDrop()
    for buffer in ("smoothed", "largest", "settled"):
        method.register_buffer(buffer, torch.zeros(2))
    assert method.scores(torch.tensor([0.4, 0.2])).tolist() == [1.0, 1.0]
    assert method.scores(torch.tensor([0.2, 0.6])).tolist() == pytest.approx([0.75, 1.0])
    assert method.scores(torch.tensor([0.1, 0.0])).tolist() == pytest.approx([0.5, 0.5])


class Told(LearnAndDrop):
    """Is told how much the layers change."""

    name = "told"

    def __init__(self, *rows: list[float]):
        super().__init__()
        self.rows = rows

    def options(self) -> dict[str, Any]:
        return {}

    def scores(self, change: Tensor) -> Tensor:
        self.asked = getattr(self, "asked", -1) + 1
        return torch.tensor(self.rows[self.asked])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)
    )  # fmt: skip


def test_the_settled_beginning_rests_with_its_normalisation_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first layer is settled after epoch 2, the last one as well, which is no beginning.

    Slopes of what goes on are those of the whole network where the first layer takes none.
    """
    net, method = network(), Told([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    kept: list[dict[str, Tensor]] = []
    fit(net, batches(), epochs=4, method=method, settings=Settings(lr=0.02),
        on_epoch=lambda row: kept.append({k: v.clone() for k, v in net.state_dict().items()}))  # fmt: skip
    for key, value in kept[3].items():
        rests = key.startswith(("0.", "1."))
        assert torch.equal(value, kept[1][key]) == rests, key
        assert rests or not torch.equal(value, kept[2][key])
    assert all(p.requires_grad for p in net.parameters())


def test_gradients_behind_what_rests_are_those_of_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    net, method = network(), Told(*[[0.0, 1.0, 1.0]] * 3)
    step, checked = Trainer.train_step, []

    def spied(run: Trainer, batch: Any) -> Tensor:
        weights = {name: p.detach().clone() for name, p in net.named_parameters()}
        buffers = {name: b.clone() for name, b in net.named_buffers()}
        nll = step(run, batch)
        if run.epoch == 2:
            other = network()
            other.load_state_dict({**weights, **buffers})
            other.train()[1].eval()
            F.cross_entropy(other(batch.x), batch.y).backward()
            for k in (3, 5):
                torch.testing.assert_close(net[k].weight.grad, other[k].weight.grad, rtol=1e-5, atol=1e-8)
            assert not net[0].weight.requires_grad
            checked.append(True)
        return nll

    monkeypatch.setattr(Trainer, "train_step", spied)
    fit(net, batches(), epochs=3, method=method, settings=Settings(lr=0.02))
    assert len(checked) == 12


def test_the_run_ends_when_all_layers_have_settled() -> None:
    method = Told([1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    history = fit(network(), batches(), epochs=6, method=method, settings=Settings(lr=0.02))
    assert len(history.rows) == 3


def test_layers_are_in_the_order_in_which_they_are_computed() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(6, 2), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    method = LearnAndDrop()
    fit(Backwards(), batches(), epochs=1, method=method, settings=Settings())
    assert method.learners == ["first", "last"]
