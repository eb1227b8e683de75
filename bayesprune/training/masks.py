"""Weights that are kept at 0: their gradients, and every moment that the optimiser keeps of them, are 0 too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of, holders_of
from bayesprune.schema import require
from bayesprune.training.cuts import units_of
from bayesprune.types import IndexMap


class Masks:
    """The masks of a run.

    Args:
        trained: Gives everything that is trained now, by name.

    Attributes:
        kept: By name of a weight, which of its entries are kept, bool, where the weight is.
    """

    def __init__(self, trained: Callable[[], Mapping[str, nn.Parameter]]):
        self.trained = trained
        self.kept: dict[str, Tensor] = {}
        self._factors: list[tuple[nn.Parameter, Tensor]] = []

    def add(self, masks: Mapping[str, Tensor]) -> None:
        """Mask more: what is masked already stays so.

        Args:
            masks: By name of a weight, which of its entries are kept, bool.

        Raises:
            ConfigError: for a mask of another shape than its weight, or of what is no weight.
        """
        trained = self.trained()
        for name, mask in masks.items():
            weight = trained.get(name)
            if weight is None or mask.shape != weight.shape or mask.dtype != torch.bool:
                raise ConfigError(f"Decision.masks: {name!r} needs a mask of bool, shaped as a weight of that name")
            mask = mask.to(weight.device)
            self.kept[name] = self.kept[name] & mask if name in self.kept else mask
        self._prepare()

    @property
    def count(self) -> int:
        """How many weights are kept at 0; waits for the device."""
        return sum(int((~mask).sum()) for mask in self.kept.values())

    def lift(self) -> None:
        """Let all weights go again, from 0."""
        self.kept = {}
        self._prepare()

    def follow(self, index: IndexMap) -> None:
        """Go on with a network that became smaller."""
        self.kept = {name: index.select(name, mask) for name, mask in self.kept.items() if name in index.kept}
        self._prepare()

    def load(self, masks: Mapping[str, Tensor]) -> None:
        """Take up the masks of a checkpoint.

        Raises:
            Mismatch: if one is not shaped as a weight.
        """
        trained = self.trained()
        for name, mask in masks.items():
            right = name in trained and mask.shape == trained[name].shape and mask.dtype == torch.bool
            require(right, f"masks.{name}", "a mask shaped as a weight", mask)
        self.kept = {name: mask.to(trained[name].device) for name, mask in masks.items()}
        self._prepare()

    def empty_rows(self, net: nn.Module) -> dict[str, Tensor]:
        """By gate name, the units of which masks leave no weight in any layer that writes them, bool."""
        found, names = {}, {gate: name for name, gate in gates_of(net).items()}
        for gate, holders in holders_of(net).items():
            masks = [
                self.kept[f"{name}.weight"].transpose(0, units_of(layer)).flatten(1)
                for name, layer in holders.items()
                if f"{name}.weight" in self.kept
            ]
            if masks and len(masks) == len(holders) and all(len(mask) == gate.size for mask in masks):
                found[names[gate]] = ~torch.cat(masks, 1).any(1).cpu()
        return found

    def _prepare(self) -> None:
        trained = self.trained()
        self._factors = [(trained[name], mask.to(trained[name].dtype)) for name, mask in self.kept.items()]

    def on_gradients(self) -> None:
        """Let the gradients of masked entries be 0."""
        pairs = [(weight.grad, factor) for weight, factor in self._factors if weight.grad is not None]
        _multiply(pairs)

    def on_weights(self, optimizer: torch.optim.Optimizer) -> None:
        """Let masked entries, and what the optimiser keeps of them, be 0."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for weight, factor in self._factors:
            kept = optimizer.state[weight].values() if weight in optimizer.state else ()
            moments = [value for value in kept if isinstance(value, Tensor) and value.shape == weight.shape]
            pairs += [(value, factor) for value in (weight, *moments)]
        _multiply(pairs)


def _multiply(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Multiply each first tensor by the second, in place."""
    if pairs:
        values, factors = zip(*pairs, strict=True)
        with torch.no_grad():
            torch._foreach_mul_(values, factors)
