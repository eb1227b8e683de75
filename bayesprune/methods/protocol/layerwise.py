"""Layers are solved one by one, so that they give what they gave: what methods that do so have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol.method import Method
from bayesprune.methods.protocol.records import Decision, Needs, Phase
from bayesprune.methods.protocol.run import Run
from bayesprune.methods.protocol.signals import LinearMap, linear_maps


class LayerByLayer(Method):
    """Trains, finds sparse weights for each layer from what goes into it and what it gives, and trains on with these.

    Signals are those of some examples; of layers with positions, one position of each example is drawn. Layers that
    are called more than once, convolutions with groups, and weights that are not trained stay as they are.

    Args:
        cascade: Whether what goes into a layer is what the layers before give as they are by then, at a pass for each
            layer, rather than what the trained ones give. What it should give is the latter in both cases.
        examples: How many examples are recorded.
        until: After which share of the run.

    Raises:
        ConfigError: for a share outside (0, 1) and a number that is not whole and positive; before training, for a
            network without such layers, or fewer examples than a layer has inputs; and while training in a cascade,
            if the loader gives other examples in every pass.

    Examples:
        >>> class Halves(LayerByLayer):  # the first half of what goes into a layer serves
        ...     name = "halves"
        ...     def solve(self, layer, x, outputs):
        ...         weights = torch.linalg.lstsq(x[:, : x.shape[1] // 2], outputs).solution
        ...         return torch.cat([weights, torch.zeros(x.shape[1] - len(weights), outputs.shape[1])]), 0.0
        >>> Halves(examples=100).options()
        {'cascade': False, 'examples': 100, 'until': 0.5}
    """

    @checked_arguments
    def __init__(self, cascade: bool = False, examples: int = 1000, until: float = 0.5):
        super().__init__()
        kind = self.name
        self.cascade = cascade
        self.examples = whole(f"{kind}: examples", examples)
        self.until = real(f"{kind}: until", until, 0, 1)

    @abstractmethod
    def solve(self, layer: LinearMap, x: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
        """Sparse weights, shape ``(n, outputs)`` as `LinearMap.matrix`, and what it took, multiply-adds.

        Args:
            layer: The layer, with its trained weights.
            x: What goes into it, shape ``(P, n)``; the last column is 1 if it has a bias.
            outputs: What it should give, shape ``(P, outputs)``.
        """

    def setup(self, run: Run) -> Needs:
        """Train, then tune.

        Raises:
            ConfigError: see the class.
        """
        kind, layers = self.name, linear_maps(run.net.net, run.example)
        if not layers:
            raise ConfigError(f"{kind}: the network has no linear layer or convolution that is called once")
        widest = max(layers, key=lambda layer: layer.inputs)
        recorded = min(self.examples, run.net.num_data)
        if recorded < widest.inputs:
            raise ConfigError(
                f"{kind}: {recorded} recorded examples do not determine the weights of "
                f"{widest.name.removesuffix('.weight')!r}, which has {widest.inputs} inputs; give more examples"
            )
        self.check_layers(layers)
        phases = Phase("train", share=self.until), Phase("tune", share=1 - self.until)
        return Needs(phases, stats=("vectors",), examples=recorded)

    def check_layers(self, layers: list[LinearMap]) -> None:
        """Refuse layers that cannot be solved.

        Args:
            layers: In the order in which they are called.
        """

    def decide(self, run: Run) -> Decision:
        """Solve all layers, as the first phase ends."""
        if run.phase.name != "train":
            return Decision()
        decision = Decision()
        first = now = _recorded(run)
        for number, layer in enumerate(linear_maps(run.net.net, run.example)):
            if layer.name not in first:  # in a branch that is off
                continue
            if self.cascade and number:
                now = _recorded(run)
                _check_equal(first, now)
            x, before = (layer.with_ones(drawn[layer.name]) for drawn in (now, first))
            weights, spent = run.engine.broadcast(self.solve(layer, x, before @ layer.matrix()))
            decision.spent += spent
            _note(decision, layer, weights)
            if self.cascade:
                layer.weight.copy_(decision.assign[layer.name])
                if layer.bias is not None:
                    layer.bias.copy_(weights[-1])
        return decision


def _recorded(run: Run) -> dict[str, Tensor]:
    """What goes into layers, of the same examples each time also if a loader draws them by torch's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return run.stats().vectors


def _check_equal(first: dict[str, Tensor], now: dict[str, Tensor]) -> None:
    """Refuse a loader that gives other examples in another pass: what goes into the first layer is what they are."""
    name = next(iter(first))
    if not torch.equal(first[name], now[name]):
        raise ConfigError(
            "a cascade needs the same examples in every pass, and the training loader gives others; take cascade=False"
        )


def _note(decision: Decision, layer: LinearMap, weights: Tensor) -> None:
    """Write down what was found for a layer: values, and a mask of those that are not 0.

    An output of which only the bias is left keeps a place for one weight, or it would be taken for a unit that is off,
    and so does a layer of which nothing is left.

    Args:
        decision: Written to.
        layer: The layer.
        weights: As `LinearMap.matrix`.
    """
    old = layer.weight.flatten(1)
    found = weights[: old.shape[1]].T.to(old)
    kept = found != 0
    constant = ~kept.any(1)
    if layer.bias is not None:
        bias = weights[-1].to(old)
        decision.assign[layer.name.removesuffix("weight") + "bias"] = bias
        constant &= bias != 0
    constant[0] |= not bool(kept.any())
    largest = torch.zeros_like(kept).scatter_(1, old.abs().argmax(1, keepdim=True), True)
    decision.assign[layer.name] = found.view(layer.weight.shape)
    decision.masks[layer.name] = (kept | (largest & constant[:, None])).view(layer.weight.shape)
