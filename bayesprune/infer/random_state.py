"""The state of torch's random number generators, to be taken up again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class RandomState:
    """The random numbers that the host and one device will give next.

    Args:
        device: The device besides the host.
        host: State of the host's generator.
        accelerator: State of the device's, if that is no CPU.

    Examples:
        >>> state = RandomState.now(torch.device("cpu"))
        >>> first = torch.rand(3)
        >>> state.restore()
        >>> torch.equal(torch.rand(3), first)
        True
    """

    device: torch.device
    host: Tensor
    accelerator: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present state."""
        return cls(device, torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    @classmethod
    def of(cls, device: torch.device, tensors: list[Tensor]) -> RandomState:
        """The state that `tensors` gave.

        Args:
            device: The device besides the host.
            tensors: From `tensors`.
        """
        return cls(device, tensors[0], tensors[1] if len(tensors) > 1 and device.type == "cuda" else None)

    def tensors(self) -> list[Tensor]:
        """The state as tensors on the host."""
        return [self.host] if self.accelerator is None else [self.host, self.accelerator]

    def restore(self) -> None:
        """Make it the present one again."""
        torch.set_rng_state(self.host)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)


@contextmanager
def replaying(device: torch.device, apart: Iterable[nn.Module] = ()) -> Iterator[None]:
    """A context in which earlier random numbers may be taken up again, but not by the modules ``apart``.

    Passes through these go on with the random numbers that come next as the context is entered, and leave those of all
    other modules as they are. After the context come the numbers behind those that they drew; if they drew none, it
    leaves no trace.

    Args:
        device: Whose random numbers, besides the host's.
        apart: The modules; they may lie within each other.
    """
    own = _Apart(RandomState.now(device))
    handles = []
    for module in apart:
        handles.append(module.register_forward_pre_hook(own.enter))
        handles.append(module.register_forward_hook(own.leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        own.state.restore()


class _Apart:
    """The random numbers of some modules, kept apart from those of all others."""

    def __init__(self, state: RandomState):
        self.state = state
        self._depth = 0

    def enter(self, *_: Any) -> None:
        """Hook before a module's forward."""
        if self._depth == 0:
            self._swap()
        self._depth += 1

    def leave(self, *_: Any) -> None:
        """Hook after it."""
        self._depth -= 1
        if self._depth == 0:
            self._swap()

    def _swap(self) -> None:
        other, self.state = self.state, RandomState.now(self.state.device)
        other.restore()


@contextmanager
def frozen_statistics(norms: Iterable[nn.Module]) -> Iterator[None]:
    """Within the context normalisations in training mode leave their running statistics as they are.

    Args:
        norms: The normalisations of a network.
    """
    # Without them, a normalisation in training mode computes the same. To write old values back instead would
    # invalidate the autograd graph of earlier passes.
    live = [(m._buffers, dict(m._buffers)) for m in norms if m.training]
    for buffers, _ in live:
        buffers.update(dict.fromkeys(buffers))
    try:
        yield
    finally:
        for buffers, kept in live:
            buffers.update(kept)
