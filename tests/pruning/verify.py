"""Checks that every case of surgery must pass, whatever the network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bayesprune.graph import gates_of
from bayesprune.layers import Gate
from bayesprune.layers.find import OWNERS
from bayesprune.pruning import compact, shrink

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def draw_thetas(net: nn.Module, seed: int, keep: float = 0.6) -> None:
    """Set every θ to a number in [0, 1], above ½ with probability ``keep``; one of every gate of several is on."""
    generator = torch.Generator().manual_seed(seed)
    for gate in gates_of(net).values():
        on = torch.rand(gate.size, generator=generator) < keep
        if gate.size > 1:
            on[torch.randint(gate.size, (1,), generator=generator)] = True
        theta = torch.rand(gate.size, generator=generator) / 2.1
        with torch.no_grad():
            gate.theta.copy_(torch.where(on, 1 - theta, theta))


def randomise_statistics(net: nn.Module, seed: int) -> None:
    """Give every normalisation running statistics, scales and shifts that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            with torch.no_grad():
                for tensor in (module.running_mean, module.weight, module.bias):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)


def off_by_mode(net: nn.Module) -> dict[str, Tensor]:
    return {name: gate.theta.detach() <= 0.5 for name, gate in gates_of(net).items()}


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def verify_unchanged(net: nn.Module, before: dict[str, Tensor], structure: str) -> None:
    after = net.state_dict()
    assert list(after) == list(before) and str(net) == structure
    assert all(torch.equal(after[name], before[name]) for name in before)


def verify_compaction(net: nn.Module, x: Tensor, dtype: torch.dtype = torch.float64) -> nn.Module:
    """``compact`` and ``shrink`` are pure, and both give the outputs of the gated network in eval mode."""
    net, x = net.to(dtype).eval(), x.to(dtype)
    with torch.no_grad():
        expected = net(x)
    before, structure = snapshot(net), str(net)
    plain = compact(net)
    smaller, index = shrink(net, off_by_mode(net), may_empty=True)
    verify_unchanged(net, before, structure)
    scale = max(1.0, float(expected.abs().max()))
    for network in (plain, smaller):
        with torch.no_grad():
            assert float((network(x) - expected).abs().max()) <= TOLERANCE[dtype] * scale
        assert not network.training
    assert not [m for m in plain.modules() if isinstance(m, (Gate, *OWNERS))]
    verify_index_map(net, smaller, index)
    names = {name for name, _ in net.named_parameters()}
    assert {name for name, _ in plain.named_parameters()} <= names
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(plain)(x), plain(x))
    return plain


def verify_index_map(net: nn.Module, smaller: nn.Module, index: object) -> None:
    """Selecting from the old tensors gives the new ones, but for folded constants and gates that were set to 0."""
    old = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
    for name, tensor in [*smaller.named_parameters(), *smaller.named_buffers()]:
        if name.endswith(".index"):
            continue
        chosen = index.select(name, old[name])
        assert chosen.shape == tensor.shape and tensor.dtype == old[name].dtype
        if name.endswith("theta"):
            assert torch.equal(torch.where(chosen > 0.5, chosen, 0.0), tensor)
        elif name not in index.folded:
            assert torch.equal(chosen, tensor)
