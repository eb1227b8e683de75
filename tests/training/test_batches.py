"""Batches as users have them: each kind trains to the numbers of the plain one, or is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bayesprune import layers
from bayesprune.errors import CheckpointError, ConfigError, DataError
from bayesprune.infer import BatchObjective, BayesianNet, Bernoulli, Categorical, Gaussian, paired_differences
from bayesprune.infer.targets import WeightedTargets
from bayesprune.layers import Gate
from bayesprune.pruning import compact, cost
from bayesprune.training import Budget, Settings, evaluate, fit
from bayesprune.training.batches import Reader
from bayesprune.training.checks import check_data
from tests.training.problems import EXAMPLES, Batches, bayesian, examples, units

QUICK = {"sample_from": 0.1, "settle_from": 0.4, "fine_tune_from": 0.8}


class Mapped:
    """The plain batches, each as a function gives it."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], from_epoch: int = 0):
        self.function, self.from_epoch, self.plain = function, from_epoch, Batches(*examples())
        self.set_epoch = self.plain.set_epoch

    def __len__(self) -> int:
        return len(self.plain)

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.plain:
            yield self.function(x, y) if self.plain.epoch >= self.from_epoch else (x, y)


class Unsized:
    """The plain batches without a length."""

    def __init__(self, size: int = 40):
        self.plain = Batches(*examples(), size)
        self.set_epoch = self.plain.set_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.plain)


class Stream(IterableDataset):
    """The examples one by one, with or without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(list(zip(*examples(), strict=True)))


class SizedStream(Stream):
    def __len__(self) -> int:
        return EXAMPLES


class TwoInputs(nn.Module):
    """`units` of the inputs' two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = units()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layers(torch.cat([left, right], 1))


class TwoOutputs(nn.Module):
    """`units`, whose outputs are among others."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layers, self.form = units(), form

    def forward(self, x: Tensor) -> Any:
        logits = self.layers(x)
        return (x, logits) if self.form == "tuple" else {"logits": logits, "inputs": x}


def trained(loader: Any, net: Callable[[], nn.Module] = units, **how: Any) -> tuple[list[float], list[Tensor]]:
    """Losses of three epochs and all that was learned."""
    torch.manual_seed(0)
    bnn = bayesian(net(), 0.5, **how)
    torch.manual_seed(1)
    history = fit(bnn, loader, epochs=3, val_loader=loader, settings=Settings(lr=0.02, schedule=QUICK))
    return [row.val_nll for row in history.rows], [*bnn.trained().values(), bnn.theta]


@pytest.fixture(scope="module")
def plain() -> tuple[list[float], list[Tensor]]:
    return trained(Batches(*examples()))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :3], x[:, 3:]


SAME: dict[str, tuple[Callable[[], Any], Callable[[], nn.Module], dict[str, Any]]] = {
    "weights of 1": (lambda: Mapped(lambda x, y: (x, y, torch.ones(len(y)))), units, {}),
    "double weights": (lambda: Mapped(lambda x, y: [x, y, torch.ones(len(y)).double()]), units, {}),
    "two inputs": (lambda: Mapped(lambda x, y: (halves(x), y)), TwoInputs, {}),
    "two inputs in a list": (lambda: Mapped(lambda x, y: [list(halves(x)), y]), TwoInputs, {}),
    "inputs by name": (lambda: Mapped(lambda x, y: ({"right": x[:, 3:], "left": x[:, :3]}, y)), TwoInputs, {}),
    "numpy": (lambda: Mapped(lambda x, y: (x.numpy(), y.numpy())), units, {}),
    "double": (lambda: Mapped(lambda x, y: (x.double(), y)), units, {}),
    "int32 labels": (lambda: Mapped(lambda x, y: (x, y.int())), units, {}),
    "uint8 labels": (lambda: Mapped(lambda x, y: (x, y.byte())), units, {}),
    "boolean labels": (lambda: Mapped(lambda x, y: (x, y.bool())), units, {}),
    "with gradient": (lambda: Mapped(lambda x, y: (x.clone().requires_grad_(), y)), units, {}),
    "without a length": (Unsized, units, {}),
    "output of a tuple": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": 1}),
    "last of a tuple": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": -1}),
    "output of a dict": (lambda: Batches(*examples()), lambda: TwoOutputs("dict"), {"loss_on": "logits"}),
    "output by a function": (lambda: Batches(*examples()), lambda: TwoOutputs("tuple"), {"loss_on": lambda o: o[1]}),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_numbers_are_those_of_the_plain_batches_to_the_bit(kind: str, plain: Any) -> None:
    loader, net, how = SAME[kind]
    losses, learned = trained(loader(), net, **how)
    assert losses == plain[0]
    assert all(torch.equal(one, other) for one, other in zip(learned, plain[1], strict=True))


@pytest.mark.parametrize(("stream", "workers"), [(Stream, 0), (SizedStream, 0), (SizedStream, 1)])
def test_an_iterable_data_set_trains_as_a_list_of_its_batches(stream: type[Stream], workers: int) -> None:
    losses, _ = trained(DataLoader(stream(), 40, num_workers=workers, generator=torch.Generator()))
    x, y = examples()
    expected, _ = trained(list(zip(x.split(40), y.split(40), strict=True)))
    assert losses == expected


def test_an_iterable_data_set_of_another_size_is_refused_after_its_first_epoch() -> None:
    bnn = BayesianNet(units(), num_data=EXAMPLES + 1)
    with pytest.raises(ConfigError, match="num_data=481, but an epoch of the train_loader has 480 examples"):
        fit(bnn, DataLoader(Stream(), 40), epochs=2)
    with pytest.raises(ConfigError, match="num_data=481, but the train_loader's data set has 480 examples"):
        fit(bnn, DataLoader(SizedStream(), 40), epochs=2)


def test_dropped_examples_of_a_stream_are_allowed_for() -> None:
    bnn = bayesian(units())
    history = fit(bnn, DataLoader(Stream(), 100, drop_last=True), epochs=2)
    assert len(history.rows) == 2


def test_batches_of_changing_size_need_a_length() -> None:
    class Uneven(Unsized):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            x, y = examples()
            return iter(list(zip(x.split([40, 400, 40]), y.split([40, 400, 40]), strict=True)))

    with pytest.raises(ConfigError, match="had 3 batches, where its first batch and num_data=480 let expect 12"):
        fit(BayesianNet(units(), num_data=EXAMPLES), Uneven(), epochs=2)


def lone(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x[:1], y[:1]


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "a dict": (lambda x, y: {"input": x, "target": y}, r"got a dict of 'input', 'target'; let the loader's collate_fn"),
    "one value": (lambda x, y: (x,), "got 1 values"),
    "a tensor": (lambda x, y: x, "got a Tensor"),
    "text": (lambda x, y: (["a"] * 40, y), "input 0: expected a tensor or an array of numpy, got a str"),
    "objects": (lambda x, y: (x.numpy().astype(object), y), "an array of object has no numbers that torch knows"),
    "no inputs": (lambda x, y: ((), y), "at least one tensor"),
    "targets in a list": (lambda x, y: (x, [1] * 40), "targets: expected a tensor or an array of numpy, got a list"),
    "empty": (lambda x, y: (x[:0], y[:0]), "is empty"),
    "a number": (lambda x, y: (x, y[0]), "must be the batch, got a single number"),
    "too few targets": (lambda x, y: (x, y[:39]), "has 40 inputs for 39 targets"),
    "uneven inputs": (lambda x, y: ((x, x[:3]), y), r"equally long in all; got shapes \(40, 8\), \(3, 8\)"),
    "features": (
        lambda x, y: (x[:, :6], y),
        r"does not take inputs of shape \(\d+, 6\) float32: layer '0', Gate\(.*\), got shape \(\d+, 6\)",
    ),
    "two inputs of one": (lambda x, y: ((x, x), y), r"shape \(\d+, 8\) float32, \(\d+, 8\) float32: the forward pass"),
    "weights of another shape": (lambda x, y: (x, y, y[:, None].float()), r"shape \(40,\), got shape \(40, 1\)"),
    "negative weights": (lambda x, y: (x, y, -torch.ones(40)), "weights must be finite and not negative"),
    "no weights": (lambda x, y: (x, y, torch.full((40,), math.nan)), "weights must be finite and not negative"),
    "labels": (lambda x, y: (x, torch.full_like(y, 2)), "labels run from 2 to 2, but the network has 2 outputs"),
    "ignored labels": (lambda x, y: (x, torch.full_like(y, -100)), "labels run from -100 to -100"),
    "real labels": (lambda x, y: (x, y.float()), "expected integer labels"),
}


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("kind", REFUSED)
def test_batches_that_cannot_be_trained_on(kind: str, epoch: int) -> None:
    function, says = REFUSED[kind]
    bnn = BayesianNet(units(), num_data=EXAMPLES)
    with pytest.raises(DataError, match=says) as caught:
        fit(bnn, Mapped(function, epoch), epochs=2)
    assert "\n" not in str(caught.value)
    assert ("first training batch" in str(caught.value) or "fit: " in str(caught.value)) == (epoch == 0)


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli()])
@pytest.mark.parametrize("epoch", [0, 1])
def test_targets_that_are_not_finite_are_named(likelihood: Any, epoch: int) -> None:
    def spoil(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        target = torch.stack([y, y], 1).float()
        target[3, 1] = math.nan
        return x, target

    clean = Mapped(lambda x, y: (x, torch.stack([y, y], 1).float()))
    loader = Mapped(lambda x, y: spoil(x, y) if loader.plain.epoch >= epoch else clean.function(x, y))
    with pytest.raises(DataError, match=r"the targets hold 1 NaN or infinite values, the first for example 3"):
        fit(BayesianNet(units(), likelihood, num_data=EXAMPLES), loader, epochs=2)


def normalised(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), norm(), Gate(6), nn.ReLU(), nn.Linear(6, 2))


def test_a_last_batch_of_one_example_is_refused_for_a_batch_norm_alone() -> None:
    x, y = examples(81)
    data = TensorDataset(x, y)
    bnn = bayesian(normalised(lambda: nn.BatchNorm1d(6)), 0.5, num_data=81)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    with pytest.raises(DataError, match="fit: the last training batch has one example, over which a BatchNorm cannot"):
        fit(bnn, DataLoader(data, 40), epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    with pytest.raises(DataError, match="training batch 1 has one example"):  # no one can know beforehand
        fit(bnn, list(zip(x.split([80, 1]), y.split([80, 1]), strict=True)), epochs=1)
    fit(bnn, DataLoader(data, 40, drop_last=True), epochs=1)
    fit(bnn, DataLoader(data, 41), epochs=1)
    fit(bayesian(normalised(nn.Identity), 0.5, num_data=81), DataLoader(data, 40), epochs=1)


def test_looking_at_the_last_batch_leaves_random_numbers_and_statistics() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), Gate(8), nn.Linear(8, 2))
    torch.manual_seed(0)
    x, y = torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    bnn = BayesianNet(net, num_data=5)
    state, number = torch.get_rng_state(), net[1].num_batches_tracked.clone()
    check_data(bnn, DataLoader(TensorDataset(x, y), 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net[1].num_batches_tracked, number) and not net[1].running_mean.any()


# weights -----------------------------------------------------------------------------------------------------------


def weighted_batch() -> tuple[BayesianNet, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, y = examples(6)
    return BayesianNet(units(), num_data=6), x, y, torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0, 0.0])


def test_the_loss_is_the_mean_of_weighted_losses_and_a_weight_counts_as_repetition() -> None:
    bnn, x, y, w = weighted_batch()
    xi = torch.ones(1, bnn.num_gates)
    by_hand = w * nn.functional.cross_entropy(bnn(x, xi), y, reduction="none")
    torch.testing.assert_close(BatchObjective(bnn, x, WeightedTargets(y, w))(xi), by_hand, rtol=0, atol=0)
    repeats = torch.tensor([0, 2, 4, 1, 6, 0])
    twice = BatchObjective(bnn, x.repeat_interleave(repeats, 0), y.repeat_interleave(repeats, 0))(xi)
    torch.testing.assert_close(twice.sum() / 2, by_hand.sum())


def test_differences_are_weighted_by_example() -> None:
    bnn, x, y, w = weighted_batch()
    xi = torch.ones(1, bnn.num_gates)
    found, _ = paired_differences(bnn, x, WeightedTargets(y, w), xi)
    each = torch.stack([paired_differences(bnn, x[i : i + 1], y[i : i + 1], xi)[0] for i in range(6)])
    torch.testing.assert_close(found, (w[:, None] * each).mean(0))


def test_examples_of_weight_0_teach_nothing() -> None:
    def spoiled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat([x, 1 - x]), torch.cat([y, 1 - y]), torch.cat([2 * torch.ones(len(y)), torch.zeros(len(y))])

    torch.manual_seed(0)
    bnn = BayesianNet(nn.Sequential(Gate(8), nn.Linear(8, 1, bias=False)), Gaussian(), num_data=2 * EXAMPLES)
    x, y = examples()
    settings = Settings(lr=0.1, schedule={"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0})
    with torch.no_grad():
        bnn.theta.fill_(1.0)
    fit(bnn, [spoiled(x, y[:, None].float())], epochs=200, settings=settings)
    target = y.float()
    ridge = torch.linalg.solve(2 * x.T @ x + torch.eye(8), 2 * x.T @ target)  # weights of precision 1
    torch.testing.assert_close(bnn.net[1].weight[0].detach(), ridge, rtol=0, atol=2e-3)


def test_scores_by_hand() -> None:
    bnn, x, y, w = weighted_batch()
    bnn.eval()
    score = evaluate(bnn, [(x[:4], y[:4], w[:4]), (x[4:], y[4:], w[4:])])
    nll = nn.functional.cross_entropy(bnn(x), y, reduction="none").detach()
    right = (bnn(x).argmax(1) == y).float()
    assert score.nll == pytest.approx(float((w * nll).sum() / 6))
    assert score.accuracy == pytest.approx(float((w * right).sum() / w.sum()))


def test_labels_that_cannot_be_are_not_scored() -> None:
    bnn, x, y, w = weighted_batch()
    for later in (y + 2, y - 100, y.float()):
        with pytest.raises(DataError, match=r"evaluate: batch 1: .*labels"):
            evaluate(bnn, [(x, y), (x, later)])
    with pytest.raises(DataError, match=r"evaluate: batch 0: weights must be finite and not negative"):
        evaluate(bnn, [(x, y, w - 1)])


def test_binary_targets_have_an_accuracy() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Gate(8), nn.Linear(8, 3))
    bnn = BayesianNet(net, Bernoulli(), num_data=20).eval()
    x, y = torch.randn(20, 8), torch.rand(20, 3).round()
    assert evaluate(bnn, [(x, y)]).accuracy == pytest.approx(
        float(((bnn(x).sigmoid() > 0.5) == (y == 1)).float().mean())
    )
    assert math.isnan(evaluate(net, [(x, y)], Gaussian()).accuracy)


def test_labels_on_an_accelerator_are_taken_for_0_until_the_epoch_ends() -> None:
    bnn, x, y, w = weighted_batch()
    reader = Reader(bnn, torch.zeros(1, 2), [(x, y)], lambda t: t)
    wrong = torch.tensor([0, 1, 7, -100, 1, 0])
    assert reader._flagged(wrong, wrong).tolist() == [0, 1, 0, 0, 1, 0]
    assert torch.equal(reader._flagged(y, y), y)
    with pytest.raises(DataError, match="held targets that the likelihood does not take"):
        reader.end_epoch(1, 6)
    reader([x, y], 0)
    reader._flagged(y, y)
    reader.end_epoch(1, 6)
    reader._flagged(WeightedTargets(y, -w), y)
    with pytest.raises(DataError, match="or weights that are negative"):
        reader.end_epoch(1, 6)


# several inputs and outputs -------------------------------------------------------------------------------------------


def test_two_inputs_are_cut_priced_and_predicted_as_one_is() -> None:
    x, y = examples()
    torch.manual_seed(0)
    one = BayesianNet(units(), num_data=EXAMPLES, slab="normal")
    torch.manual_seed(0)
    two = BayesianNet(TwoInputs(), num_data=EXAMPLES, slab="normal")
    settings = Settings(lr=0.02, schedule=QUICK, budget=Budget.parse("macs=0.7"), temperature=0.5)
    for bnn, loader in ((one, Batches(x, y)), (two, Mapped(lambda x, y: (halves(x), y)))):
        torch.manual_seed(1)
        fit(bnn, loader, epochs=4, settings=settings)
    assert torch.equal(one.theta, two.theta)
    assert cost(one, x) == cost(two, halves(x)) == cost(two, {"left": x[:, :3], "right": x[:, 3:]})
    draws = []
    for bnn, inputs in ((one, x), (two, halves(x)), (two, {"right": x[:, 3:], "left": x[:, :3]})):
        torch.manual_seed(2)
        draws.append(bnn.predict(inputs, 3).samples)
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    torch.testing.assert_close(compact(two)(*halves(x)), two.eval()(halves(x)))


def test_an_output_that_is_not_chosen_is_refused() -> None:
    for form, how, says in (
        ("tuple", {}, r"gives a tuple of 2; say which tensor"),
        ("tuple", {"loss_on": 2}, r"gives a tuple of 2, and loss_on=2 finds no tensor in it"),
        ("tuple", {"loss_on": "logits"}, r"loss_on='logits' finds no tensor"),
        ("dict", {"loss_on": 0}, r"gives a dict of 'logits', 'inputs', and loss_on=0 finds"),
    ):
        bnn = BayesianNet(TwoOutputs(form), num_data=EXAMPLES, **how)
        with pytest.raises(ConfigError, match=says):
            fit(bnn, Batches(*examples()), epochs=1)


def test_a_plain_network_with_two_outputs_is_scored_where_asked() -> None:
    net, (x, y) = TwoOutputs("dict"), examples(40)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(net.eval()(x)["logits"], y)
    assert evaluate(net, [(x, y)], loss_on="logits").nll == pytest.approx(float(expected))
    with pytest.raises(DataError, match=r"evaluate: batch 0: the network does not take inputs of shape \(40, 7\)"):
        evaluate(net, [(x[:, :7], y)], loss_on="logits")


# images of labels ----------------------------------------------------------------------------------------------------


def test_every_pixel_has_a_class() -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 2, 4, 4)
    y = (x[:, 0] > 0).int()
    net = nn.Sequential(layers.Conv2d(2, 6, 1, gate="unit"), nn.ReLU(), nn.Conv2d(6, 2, 1))
    bnn = BayesianNet(net, Categorical(), num_data=48)
    loader = DataLoader(TensorDataset(x, y), 16)
    before = evaluate(bnn, loader)
    with torch.no_grad():
        by_hand = nn.functional.cross_entropy(bnn.eval()(x), y.long(), reduction="none").flatten(1).sum(1).mean()
    assert before.nll == pytest.approx(float(by_hand), rel=1e-5)
    assert before.accuracy == pytest.approx(float((bnn(x).argmax(1) == y).float().mean()))
    history = fit(bnn, loader, epochs=40, val_loader=loader, settings=Settings(lr=0.02))
    assert history.rows[-1].val_accuracy > 0.97
    assert history.rows[-1].val_nll < before.nll / 4


class Endless:
    """Batches without a length and without an end."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from Batches(*examples())


def test_batches_without_end_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"which has no length, had more than 12 batches, where its first batch and"):
        fit(bayesian(units()), Endless(), epochs=1)


def test_a_run_on_another_output_is_another_run(tmp_path: Path) -> None:
    class Two(TwoOutputs):
        def forward(self, x: Tensor) -> Any:
            logits = self.layers(x)
            return logits, -logits

    for place in (0, 1):
        bnn = bayesian(Two("tuple"), 0.5, loss_on=place)
        with nullcontext() if place == 0 else pytest.raises(CheckpointError, match="belongs to another run: its model"):
            fit(bnn, Batches(*examples()), epochs=1, settings=Settings(schedule=QUICK), out=tmp_path)
