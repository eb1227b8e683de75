"""No convolution trains channels last on a CPU where torch would write out of bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.errors import ConfigError
from bayesprune.layers import Gate, Residual
from bayesprune.training import Engine, EpochRow, Settings
from bayesprune.training.layout import check_layout, has_strided_pointwise

LAST = torch.channels_last


class Gradients(TorchDispatchMode):
    """The memory formats of maps and weights, of all strided 1x1 convolutions whose gradients are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            _, maps, weight, _, stride = args[:5]
            if weight.shape[2:] == (1, 1) and any(step > 1 for step in stride):
                self.found.append((ordered_last(maps), ordered_last(weight)))
        return func(*args, **(kwargs or {}))


def ordered_last(tensor: Tensor) -> bool:
    return tensor.stride(3) != 1


def images(count: int = 16, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, channels, 8, 8, generator=generator), torch.arange(count) % 4


def trained(memory_format: torch.memory_format, slab: str = "point") -> tuple[EpochRow, dict[str, Tensor]]:
    """The last row, and the weights, after two epochs from a network and images in this memory format."""
    x, y = images()
    torch.manual_seed(0)
    net = bp.networks.resnet(8, (3, 8, 8), 4, width=4, units=True).to(memory_format=memory_format)
    bnn = bp.BayesianNet(net, num_data=len(x), slab=slab)
    loader = DataLoader(TensorDataset(x.to(memory_format=memory_format), y), batch_size=8)
    history = bp.fit(bnn, loader, epochs=2, prune=False, settings=Settings(every=1, schedule={"travel": 0.3}))
    return history.rows[-1], bnn.weights()


@pytest.mark.parametrize("slab", ["point", "normal"])
def test_the_gradient_of_a_strided_by_pass_is_computed_contiguously(slab: str) -> None:
    with Gradients() as gradients:
        trained(LAST, slab)
    assert len(gradients.found) >= 2 * 4  # two by-passes, four steps
    assert set(gradients.found) == {(False, False)}


def test_the_layout_of_what_is_given_does_not_change_the_numbers() -> None:
    (expected, weights), (found, others) = trained(torch.contiguous_format), trained(LAST)
    assert (found.loss, found.gates_left) == (expected.loss, expected.gates_left)
    assert all(torch.equal(others[name], weight) for name, weight in weights.items())


def test_a_pixel_of_one_channel_and_a_kernel_of_one_pixel_are_laid_out_too() -> None:
    """Where a dimension has one entry strides are ambiguous: such tensors are contiguous and channels last at once."""
    net = nn.Sequential(nn.Conv2d(1, 8, 1, stride=2), nn.Conv2d(8, 8, 3)).to(memory_format=LAST)
    maps = torch.randn(2, 1, 8, 8).to(memory_format=LAST)
    assert net[0].weight.is_contiguous() and maps.is_contiguous() and maps.stride() == (64, 1, 8, 1)
    engine = Engine()
    engine.place(net)
    assert engine.input(maps).stride() == (64, 64, 8, 1) and torch.equal(engine.input(maps), maps)
    assert [conv.weight.stride() for conv in net] == [(1, 1, 1, 1), (72, 9, 3, 1)]


def test_other_networks_keep_the_layout_that_they_are_given() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1)).to(memory_format=LAST)
    engine, x = Engine(), images()[0].to(memory_format=LAST)
    engine.place(net)
    assert not has_strided_pointwise(net)
    assert engine.input(x) is x and net[0].weight.is_contiguous(memory_format=LAST)


def test_networks_with_a_strided_pointwise_convolution() -> None:
    assert has_strided_pointwise(nn.Sequential(nn.Flatten(0), nn.Conv2d(3, 4, 1, stride=(2, 1))))
    assert not has_strided_pointwise(nn.Sequential(nn.Conv2d(3, 4, (1, 3), stride=2), nn.ConvTranspose2d(4, 4, 1, 2)))


# maps that a network itself lays out ----------------------------------------------------------------------------------


class Permuted(nn.Module):
    """A normalisation over channels, as ConvNeXt has it, behind which maps are channels last."""

    def __init__(self, channels: int, contiguous: bool = False):
        super().__init__()
        self.norm, self.contiguous = nn.LayerNorm(channels), contiguous

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y.contiguous() if self.contiguous else y


def permuting(channels: int, units: bool, contiguous: bool = False) -> bp.BayesianNet:
    """A strided 1x1 convolution behind a normalisation over channels; a gated branch, which is off, or gated maps."""
    branch = Residual(nn.Conv2d(channels, channels, 3, padding=1))
    net = nn.Sequential(
        Permuted(channels, contiguous), nn.Conv2d(channels, 8, 1, stride=2), nn.ReLU(),
        Gate(8) if units else Residual(nn.Conv2d(8, 8, 3, padding=1)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return bp.BayesianNet(nn.Sequential(branch, net), num_data=16)


def fitted(net: bp.BayesianNet, channels: int) -> None:
    bp.fit(net, DataLoader(TensorDataset(*images(16, channels)), batch_size=8), epochs=1)


@pytest.mark.parametrize(("channels", "units"), [(12, False), (12, True), (16, True)])
def test_maps_that_come_channels_last_within_the_network_are_refused(channels: int, units: bool) -> None:
    with pytest.raises(ConfigError, match=rf"stride \(2, 2\) gets {channels} channels .* call \.contiguous\(\)"):
        fitted(permuting(channels, units), channels)


@pytest.mark.parametrize(("channels", "units", "contiguous"), [(16, False, False), (12, True, True)])
def test_enough_channels_that_stay_or_contiguous_maps_are_taken(channels: int, units: bool, contiguous: bool) -> None:
    fitted(permuting(channels, units, contiguous), channels)


def test_also_behind_a_branch_that_is_off() -> None:
    net = permuting(12, units=False).net[1]
    bnn = bp.BayesianNet(nn.Sequential(Residual(net[:2], nn.Conv2d(12, 8, 2, stride=2)), *net[2:]), num_data=16)
    with torch.no_grad():
        bnn.theta.fill_(0.1)
    with pytest.raises(ConfigError, match="channels last"):
        check_layout(bnn, images(1, 12)[0])


def test_looking_leaves_no_trace() -> None:
    net = permuting(16, units=False)
    net.net.eval()
    net.train()
    before, random = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    check_layout(net, images(1, 16)[0])
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# with the heap watched -----------------------------------------------------------------------------------------------

TRAINING = """
import torch, bayesprune as bp
from torch.utils.data import DataLoader, TensorDataset
x, y = torch.randn(64, 3, 64, 64).to(memory_format=torch.channels_last), torch.arange(64) % 10
net = bp.networks.resnet(8, (3, 64, 64), 10, width=4, units=True).to(memory_format=torch.channels_last)
bp.fit(bp.BayesianNet(net, num_data=64), DataLoader(TensorDataset(x, y), batch_size=32), epochs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library watches its heap on Linux")
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_training_channels_last_does_not_write_out_of_bounds(instructions: str) -> None:
    """Aborts without the layout, on x86-64, with AVX2 and with AVX-512."""
    watched = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-c", TRAINING]
    done = subprocess.run(command, env={**os.environ, **watched}, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
