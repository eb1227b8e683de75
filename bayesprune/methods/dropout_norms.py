"""Dropout and penalties of norms, and how prunable the network is that they leave."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.graph.groups import groups
from bayesprune.methods.protocol import Decision, Method, Needs, Run, Site
from bayesprune.methods.protocol.ranking import smallest_overall


class DropoutNorms(Method):
    """Trains with dropout of what gates multiply, with l1 Σ|w| + l2/2 Σ w² more in the loss, or with bounded rows.

    At the end of the run the smallest weights of all layers together may go, without further training: how much is lost
    says how prunable a regulariser leaves a network.

    Args:
        units: With what probability a unit of a dense layer is 0 in a step, for each example; the others are divided by
            one minus that.
        filters: Likewise, an entry of a convolution's outputs.
        inputs: Likewise, an input, where gates are on inputs.
        l1: Penalty of sizes, nats per example.
        l2: Penalty of half of the squares.
        max_norm: The largest norm that the weights of an output may have; ``None`` for any.
        sparsity: Which share of the weights is 0 in the end; 0 for none.

    Raises:
        ConfigError: for rates and shares outside [0, 1), negative penalties, a norm that is not positive; and before
            training, for dropout of what no gate is on, and for penalties where batch normalisations scale weights.

    Examples:
        >>> DropoutNorms(units=0.5, max_norm=3.0).options()["units"]
        0.5

    Sources:
        Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, "Dropout: A Simple Way to Prevent Neural
        Networks from Overfitting", with its bound on norms. That regularisers are compared by how prunable they leave a
        network is ours.
    """

    name: ClassVar[str] = "dropout_norms"

    @checked_arguments
    def __init__(
        self,
        units: float = 0.5,
        filters: float = 0.0,
        inputs: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        max_norm: float | None = None,
        sparsity: float = 0.0,
    ):
        super().__init__()
        self.units = real("dropout_norms: units", units, 0, 1, "[)")
        self.filters = real("dropout_norms: filters", filters, 0, 1, "[)")
        self.inputs = real("dropout_norms: inputs", inputs, 0, 1, "[)")
        self.l1 = real("dropout_norms: l1", l1, 0, ends="[)")
        self.l2 = real("dropout_norms: l2", l2, 0, ends="[)")
        self.max_norm = None if max_norm is None else real("dropout_norms: max_norm", max_norm, 0)
        self.sparsity = real("dropout_norms: sparsity", sparsity, 0, 1, "[)")
        self.rates: dict[str, float] = {}

    def setup(self, run: Run) -> Needs:
        """One phase; views of outputs, if some are dropped.

        Raises:
            ConfigError: see the class.
        """
        net = run.net.net
        scaled = [name for name, module in net.named_modules() if isinstance(module, _BatchNorm)]
        if scaled and (self.l1 or self.l2 or self.max_norm):
            raise ConfigError(
                f"dropout_norms: {scaled[0]!r} normalises batches, so that the size of weights before it changes "
                "nothing; let l1, l2 and max_norm be 0 or None, or take the method 'slimming'"
            )
        if not (self.units or self.filters or self.inputs):
            return Needs()
        self.rates = {}
        for group in groups(net, example_input=run.example):
            maps = any(isinstance(net.get_submodule(name), _ConvNd) for name in group.written)
            rate = self.inputs if not group.written else self.filters if maps else self.units
            self.rates |= dict.fromkeys(group.gates if group.size > 1 else (), rate)
        if not any(self.rates.values()):
            raise ConfigError(
                "dropout_norms: what is to be dropped has no gates; put gates on layers, let bp.convert put them, or "
                "let units, filters and inputs be 0"
            )
        return Needs(views=frozenset({"output"}))

    def view(self, site: Site, value: Tensor, run: Run) -> Tensor:
        """What is left of an output while training."""
        return F.dropout(value, self.rates.get(site.name, 0.0), site.layer.training)

    def loss(self, run: Run) -> Tensor | float:
        """l1 Σ|w| + l2/2 Σ w²."""
        if not (self.l1 or self.l2):
            return 0.0
        weights = [site.weight for site in run.sites if site.kind == "weight"]
        return torch.stack([self.l1 * w.abs().sum() + self.l2 / 2 * w.square().sum() for w in weights]).sum()

    def stepped(self, run: Run) -> None:
        """Scale rows that are too long."""
        for site in run.sites if self.max_norm is not None else ():
            if site.kind == "weight":
                norms = site.weight.flatten(1).norm(dim=1).clamp(min=1e-30)
                factors = (self.max_norm / norms).clamp(max=1)
                site.weight.mul_(factors.view(-1, *[1] * (site.weight.dim() - 1)))

    def decide(self, run: Run) -> Decision:
        """Mask the smallest weights in the end."""
        if not self.sparsity:
            return Decision()
        sizes = {site.name: site.weight.detach().abs() for site in run.sites if site.kind == "weight"}
        return Decision(masks={name: ~small for name, small in smallest_overall(sizes, self.sparsity).items()})
