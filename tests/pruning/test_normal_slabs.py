"""Surgery on networks with Normal weights: outputs, drawn weights, the law of what is folded, optimisers, copies."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.distributions import FixedInclusion, FlatteningPrior
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet, LearnedGaussian
from bayesprune.layers import Draw, NormalLayer, gates_of, give_normal_slabs, normal_layers
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import compact, cost, kept_gates, load, save, shrink
from tests.infer.verify import STANDARD_ERRORS
from tests.pruning.nets import NETS
from tests.pruning.verify import draw_thetas, off_by_mode, randomise_statistics, verify_compaction

ACCEPTED = [name for name in NETS if name not in ("flattened", "barriers")]
"""Networks that a `BayesianNet` takes."""


def normal(name: str, seed: int = 3) -> tuple[nn.Module, Tensor]:
    """The network in float64 with Normal weights whose scales all differ, gates on and off, and a batch."""
    torch.manual_seed(seed)
    build, shape = NETS[name]
    net = build().double().eval()
    give_normal_slabs(net, 0.5)
    spread(net)
    draw_thetas(net, seed)
    randomise_statistics(net, seed)
    return net, torch.randn(3, *shape).double()


def spread(net: nn.Module) -> None:
    with torch.no_grad():
        for layer in normal_layers(net).values():
            for log_scale in (layer.weight_log_scale, layer.bias_log_scale):
                if log_scale is not None:
                    log_scale.add_(0.5 * torch.randn_like(log_scale))


def bayesian(name: str = "mlp_with_input_gates", seed: int = 3, **options: object) -> tuple[BayesianNet, Tensor]:
    torch.manual_seed(seed)
    build, shape = NETS[name]
    arguments = {"num_data": 60, "prior": FlatteningPrior(torch.tensor(3.0))} | options
    net = BayesianNet(build(), slab="normal", **arguments).double().eval()  # type: ignore[arg-type]
    spread(net)
    draw_thetas(net.net, seed, keep=0.4)
    randomise_statistics(net, seed)
    net.refresh()
    return net, torch.randn(4, *shape).double()


@torch.no_grad()
def at_weights(net: nn.Module) -> nn.Module:
    """A copy whose means are weights drawn from the posterior of ``net``."""
    drawn = copy.deepcopy(net)
    for layer in normal_layers(drawn).values():
        layer.draw_weights()
        weight, bias = layer.drawn
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        layer.drop_weights()
    return drawn


def handed(net: nn.Module, weights: nn.Module, x: Tensor) -> Tensor:
    """Outputs of ``net`` with the means of ``weights`` as its drawn weights."""
    for name, layer in normal_layers(net).items():
        source = weights.get_submodule(name)
        layer.drawn = source.weight.detach(), None if layer.bias is None else source.bias.detach()
    try:
        with torch.no_grad():
            return net(x)
    finally:
        for layer in normal_layers(net).values():
            layer.drop_weights()


# outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_outputs_at_the_means_stay_and_compact_leaves_a_plain_network(name: str) -> None:
    net, x = normal(name)
    plain = verify_compaction(net, x)
    assert not [module for module in plain.modules() if isinstance(module, NormalLayer)]
    assert not [key for key in plain.state_dict() if "log_scale" in key or "theta" in key]
    assert cost(plain, x).params == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("name", NETS)
def test_outputs_with_drawn_weights_stay(name: str) -> None:
    """The smaller network with what surgery makes of these weights."""
    net, x = normal(name)
    weights = at_weights(net)
    expected = handed(net, weights, x)
    assert float((expected - net(x).detach()).abs().max()) > 1e-3
    off = off_by_mode(net)
    smaller, _ = shrink(net, off, may_empty=True)
    smaller_weights, _ = shrink(weights, off, may_empty=True)
    torch.testing.assert_close(handed(smaller, smaller_weights, x), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp_with_input_gates", "sequence"])
def test_noisy_outputs_keep_their_law_where_off_leaves_zero(name: str) -> None:
    """All layers' standard deviations of one pass: with noise of which every number is 1, outputs are the same."""
    net, x = normal(name)
    off = off_by_mode(net)
    smaller, _ = shrink(net, off)
    outputs = []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "randn_like", torch.ones_like)
        for network in (net, smaller):
            gates = list(gates_of(network).values())
            draw = Draw([gate.size for gate in gates])
            for slot, gate in enumerate(gates):
                gate.connect(draw, slot)
            for layer in normal_layers(network).values():
                layer.draw = draw
            with draw.use(torch.cat([gate.mode() for gate in gates]), noise=-1):  # rows that are no examples
                outputs.append(network(x))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(outputs[0], net(x))


# what is folded -------------------------------------------------------------------------------------------------------


def test_a_constant_that_is_folded_brings_its_variance() -> None:
    """Sigmoid leaves ½ in a convolution of kernel 3, softplus log 2 in a linear layer: σ_b² + Σ c² σ²."""
    net, _ = normal("sigmoid")
    off = {"0": torch.tensor([True, False, True, False, False, False]), "6": torch.arange(8) < 3}
    smaller, index = shrink(net, off)
    assert index.folded >= {"3.bias", "3.bias_log_scale", "8.bias", "8.bias_log_scale"}
    for name, gone, constant in (("3", [0, 2], 0.5), ("8", [0, 1, 2], math.log(2))):
        before, after = net.get_submodule(name), smaller.get_submodule(name)
        lost = before.weight[:, gone], before.weight_log_scale[:, gone]
        mean = before.bias + constant * lost[0].flatten(1).sum(1)
        variance = (2 * before.bias_log_scale).exp() + constant**2 * (2 * lost[1]).exp().flatten(1).sum(1)
        torch.testing.assert_close(after.bias, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close((2 * after.bias_log_scale).exp(), variance, rtol=1e-12, atol=1e-14)
        rest = torch.tensor([i for i in range(before.weight.shape[1]) if i not in gone])
        assert torch.equal(after.weight_log_scale, before.weight_log_scale[:, rest])


@pytest.mark.statistical
def test_predictions_keep_their_law_when_constants_are_folded() -> None:
    """Two samples of 800 draws: means, variances; fails by chance at 6e-5 each of 24."""
    net, x = bayesian("sigmoid", likelihood="gaussian")
    with torch.no_grad():
        net.theta.copy_((net.theta > 0.5).double())
    small = compact(net, posterior=True)
    assert small.num_gates < net.num_gates
    first, second = (bnn.predict(x, 800).samples.flatten(1) for bnn in (net, small))
    error = ((first.var(0) + second.var(0)) / 800).sqrt()
    assert bool(((first.mean(0) - second.mean(0)).abs() < STANDARD_ERRORS * error).all())
    kurtosis = ((first - first.mean(0)) ** 4).mean(0) / first.var(0) ** 2
    error = ((kurtosis - 1) * 2 / 800).sqrt()
    assert bool(((first.var(0).log() - second.var(0).log()).abs() < STANDARD_ERRORS * error).all())


# the posterior of the smaller network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACCEPTED)
def test_compact_to_the_posterior(name: str) -> None:
    """A smaller Bayesian network: the same outputs, θ of the gates that are on, prior and likelihood."""
    net, x = bayesian(name, likelihood=LearnedGaussian(0.3))
    net.log_gamma.copy_(torch.arange(1.0, net.num_gates + 1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    small = compact(net, posterior=True)
    assert isinstance(small, BayesianNet) and small is not net and not small.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(small(x), net(x), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(compact(small)(x), compact(net)(x), rtol=1e-9, atol=1e-10)
    assert cost(small).params < cost(net).params and small.num_data == 60
    kept = kept_gates(net.net, shrink(net.net, off_by_mode(net.net), may_empty=True)[1])
    theta, prices = net.by_gate(net.theta.detach()), net.by_gate(net.log_gamma)
    for gate, part in small.by_gate(small.theta.detach()).items():
        assert torch.equal(part, theta[gate][kept[gate]] * (theta[gate][kept[gate]] > 0.5))
        assert torch.equal(small.by_gate(small.log_gamma)[gate], prices[gate][kept[gate]])
    assert small.likelihood is not net.likelihood and float(small.likelihood.noise_scale.detach()) == pytest.approx(0.3)
    small.refresh()
    assert bool(small.price.isfinite().all())
    assert bool(small.predict(x, 3).mean.isfinite().all())


def test_the_smaller_posterior_trains_on() -> None:
    torch.manual_seed(0)
    net = BayesianNet(
        nn.Sequential(layers.Linear(3, 8, gate="unit"), nn.Tanh(), nn.Linear(8, 1)), LearnedGaussian(), num_data=40,
        prior=FixedInclusion(0.3), slab="normal",
    )  # fmt: skip
    with torch.no_grad():
        net.theta[:5] = 0.1
    small = compact(net, posterior=True)
    assert small.num_gates == 3 and not small.prior_type.decides and small.net[0].weight_log_scale.shape == (3, 3)
    x = torch.randn(40, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :1].sin()), batch_size=20)
    rest = {"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0}
    history = bp.fit(small, loader, epochs=8, settings=bp.training.Settings(lr=0.02, every=1, schedule=rest))
    assert history.rows[-1].nll < history.rows[0].nll
    assert cost(net).params == 8 * 4 + 9


def test_a_point_network_has_a_smaller_posterior_too() -> None:
    torch.manual_seed(0)
    net = BayesianNet(NETS["mlp_with_input_gates"][0](), num_data=9).eval()
    draw_thetas(net.net, 1)
    small = compact(net, posterior=True)
    x = torch.randn(3, 2, 3, 4)
    torch.testing.assert_close(small(x), net(x))
    assert small.weights_posterior.name == "point" and small.num_gates < net.num_gates


def test_the_posterior_of_no_bayesian_network_is_refused() -> None:
    net = NETS["mlp_with_input_gates"][0]()
    with pytest.raises(ConfigError, match=r"posterior=True needs a BayesianNet, got a Sequential; wrap the network"):
        compact(net, posterior=True)


def test_the_mean_of_the_posterior_is_saved_and_loaded(tmp_path: Path) -> None:
    net, x = bayesian("lenet")
    small = compact(net)
    save(small, tmp_path / "model.safetensors")
    torch.testing.assert_close(load(tmp_path / "model.safetensors")(x), net(x), rtol=1e-9, atol=1e-9)


# optimisers -----------------------------------------------------------------------------------------------------------


def train_step(net: BayesianNet, optimizer: torch.optim.Optimizer, x: Tensor, noise: dict[str, Tensor]) -> None:
    """With weights μ + σ ε for the ε of ``noise``, the same before and after a removal; and the pull of the prior."""
    optimizer.zero_grad()
    parts = []
    for name, layer in net.weights_posterior.layers.items():
        parts.append(noise[f"{name}.weight"].flatten())
        if layer.bias is not None:
            parts.append(noise[f"{name}.bias"])
    mean, scale = net.weights_posterior.moments()
    with net.weights_posterior.drawn(mean + scale * torch.cat(parts)):
        net(x, net.theta.detach()).square().mean().backward()
    net.refresh()
    net.add_gradients()
    optimizer.step()


@pytest.mark.parametrize("name", ["mlp_with_input_gates", "lenet", "residual"])
def test_a_step_commutes_with_a_removal(name: str) -> None:
    """Adam's moments of means and log scales follow the survivors, in their groups."""
    net, x = bayesian(name, likelihood="gaussian", slab_scale=0.8)
    with torch.no_grad():
        net.theta.copy_((net.theta > 0.5).double())
    optimizer = torch.optim.Adam(net.parameter_groups(), lr=0.02)
    noise = {key: torch.randn_like(p) for key, p in net.net.named_parameters()}
    for _ in range(2):
        train_step(net, optimizer, x, noise)
    small, remapped = copy.deepcopy((net, optimizer))
    old = small.trained()
    smaller, index = shrink(small.net, off_by_mode(small.net))
    small.replace(smaller, kept_gates(small.net, index))
    assert not index.folded
    remap_optimizer(remapped, old, small.trained(), index)
    assert [group["lr_factor"] for group in remapped.param_groups] == [g["lr_factor"] for g in optimizer.param_groups]
    scales = {id(p) for p in small.weights_posterior.log_scales()}
    assert {id(p) for group in remapped.param_groups if group["lr_factor"] == 10 for p in group["params"]} == scales
    survivors = {key: index.select(key, noise[key]) for key in small.weights()}
    assert sum(net.weights_posterior._sizes) > sum(small.weights_posterior._sizes)
    for _ in range(2):
        train_step(net, optimizer, x, noise)
        train_step(small, remapped, x, survivors)
    for key, parameter in small.weights().items():
        expected = index.select(key, net.weights()[key])
        torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-12, msg=key)
