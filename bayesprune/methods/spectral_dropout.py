"""Spectral dropout of what gates multiply, after Khan, Hayat & Porikli 2017."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError
from bayesprune.layers.spectral import Axis, Rule, SpectralDropout
from bayesprune.methods.protocol import Method, Needs, Run, Site


class SpectralRegulariser(Method):
    """Drops weak coefficients of what gates multiply while training, as `layers.SpectralDropout` does.

    A regulariser: the network that it ends with computes without, and so it does in eval mode. A network that is to
    drop them for good has the layer itself.

    Args:
        axis: As for `layers.SpectralDropout`; outputs without dimensions of space are left as they are by ``"space"``.
        threshold: Likewise.
        p: Likewise.
        rule: Likewise.

    Raises:
        ConfigError: as `layers.SpectralDropout`, and before training for a network without gates on several units or
            filters.

    Examples:
        >>> SpectralRegulariser(axis="flat").options()
        {'axis': 'flat', 'threshold': 0.1, 'p': 0.2, 'rule': 'or'}

    Sources:
        As `layers.SpectralDropout`.
    """

    name: ClassVar[str] = "spectral_dropout"

    @checked_arguments
    def __init__(self, axis: Axis = "flat", threshold: float = 0.1, p: float = 0.2, rule: Rule = "or"):
        super().__init__()
        self.drop = SpectralDropout(axis, threshold, p, rule)
        self.axis, self.threshold, self.p, self.rule = axis, self.drop.threshold, self.drop.p, rule

    def setup(self, run: Run) -> Needs:
        """One phase, with views of outputs.

        Raises:
            ConfigError: see the class.
        """
        sizes = {name: len(theta) for name, theta in run.net.gate_probs().items()}
        self.wide = {name for name, size in sizes.items() if size > 1}
        if not self.wide:
            raise ConfigError(
                "spectral_dropout: no gate holds several units or filters; put gates on layers, let bp.convert put "
                "them, or put layers.SpectralDropout into the network"
            )
        return Needs(views=frozenset({"output"}))

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """An output without its weak coefficients while training."""
        return self.drop(value) if site.layer.training and site.name in self.wide else value
