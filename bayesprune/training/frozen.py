"""Modules that rest: their weights stay as they are, and they are in eval mode; or their statistics alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _NormBase

from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Model


class Frozen:
    """Which modules of a run rest.

    Args:
        net: What is trained.
        statistics: Whether normalisations with running statistics keep these from the start.

    Attributes:
        names: Names of the modules.
    """

    def __init__(self, net: Model, statistics: bool):
        self.net, self.statistics = net, statistics
        self.names: set[str] = set()
        self._parameters: set[str] = set()

    def add(self, names: Iterable[str]) -> bool:
        """Let more modules rest; returns whether any of them did not.

        Raises:
            ConfigError: for a name that no module has.
        """
        new = set(names) - self.names
        unknown = sorted(new - {name for name, _ in self.net.net.named_modules()})
        if unknown:
            raise ConfigError(f"Decision.freeze: the network has no module {unknown[0]!r}")
        self.names |= new
        for name, weight in self.net.weights().items():
            if weight.requires_grad and self._holds(name):
                weight.requires_grad_(False)
                self._parameters.add(name)
        return bool(new)

    def _holds(self, name: str) -> bool:
        """Whether a tensor of this name lies in a module that rests."""
        return any(not module or name.startswith(f"{module}.") for module in self.names)

    def rest(self) -> None:
        """Let the modules that rest be in eval mode, where the network is in training mode."""
        for name, module in self.net.net.named_modules():
            if name in self.names or (self.statistics and isinstance(module, _NormBase)):
                module.eval()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever happens to the network within the context, modules that rest hold afterwards what they held."""
        tensors = {**self.net.weights(), **dict(self.net.net.named_buffers())}
        held = [(tensor, tensor.detach().clone()) for name, tensor in tensors.items() if self._holds(name)]
        yield
        with torch.no_grad():
            for tensor, value in held:
                tensor.copy_(value)

    def thaw(self) -> None:
        """End: weights require gradients again that did."""
        for name, weight in self.net.weights().items():
            if name in self._parameters:
                weight.requires_grad_()
