"""Run a network to look at it, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def untouched(net: nn.Module, seed: int | None = None) -> Iterator[None]:
    """A context in which a network is in eval mode, after which its modes and buffers are what they were.

    So are the random numbers that come next, on the host and where its parameters are.

    Args:
        net: The network.
        seed: Where random numbers begin in the context; ``None`` for where they are.
    """
    modes = {module: module.training for module in net.modules()}
    buffers = [
        (module, name, held, held.detach().clone())
        for module in modes
        for name, held in module._buffers.items()
        if held is not None and not held.is_inference()
    ]
    devices = {p.device.index or 0 for p in net.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices=devices):
            if seed is not None:
                for generator in (torch.default_generator, *map(torch.cuda.default_generators.__getitem__, devices)):
                    generator.manual_seed(seed)
            net.eval()
            yield
    finally:
        for module, name, held, value in buffers:
            module._buffers[name] = held
            if not torch.equal(held, value):  # normalisations write over theirs without a trace in its version
                with torch.no_grad():
                    held.copy_(value)
        for module, mode in modes.items():
            module.training = mode
