"""Small records that cross the borders between rooms."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: Number of parameters (weights and biases; no gates, no buffers).
        macs: Multiply-adds of one forward pass for one example; ``None`` if they were not counted.
    """

    params: int
    macs: int | None


@dataclass(frozen=True)
class Removal:
    """One structure that was removed during training, with the evidence for it.

    Attributes:
        step: Optimisation step after which it was removed.
        gate: Name of the gated module, as in `BayesianNet.gate_probs`.
        index: Index of the structure in that gate as it was when training started.
        theta: θ at removal.
        net_cost: What keeping it would cost net of what it is worth to the data: the latest estimate of E[C | ξ=1] −
            E[C | ξ=0] + ρ, nats per example; positive: the data do not want it back.
        weight_norm: Euclidean norm of the parameters that went with it alone (its rows of the layer that writes it,
            also where a `layers.Gate` behind the activation decides), 0 for an input, and where no layer is found.
        forced: Whether it went for the sake of a budget, whatever the data say: at the end of settling, to meet it.
    """

    step: int
    gate: str
    index: int
    theta: float
    net_cost: float
    weight_norm: float
    forced: bool = False

    def as_dict(self) -> dict[str, object]:
        """The record as a dictionary, one entry a column."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What is known of every gate that is left, nats per example; each shape ``(S,)``.

    Attributes:
        price: ρ, what keeping the structure costs.
        net_cost: The latest estimate of E[C | ξ=1] − E[C | ξ=0] + ρ, positive where the structure should go;
            ρ − net_cost is what it is worth to the data.
        error: The standard error of ``net_cost``; NaN where none is known.

    Examples:
        >>> import torch
        >>> Evidence(torch.tensor([0.2]), torch.tensor([-0.1]), torch.tensor([0.02])).stacked()
        tensor([[ 0.2000, -0.1000,  0.0200]])
    """

    price: Tensor
    net_cost: Tensor
    error: Tensor

    def stacked(self) -> Tensor:
        """The three as columns, shape ``(S, 3)``, float32, on the CPU."""
        return torch.stack([self.price, self.net_cost, self.error], 1).detach().to("cpu", torch.float32)


@dataclass
class IndexMap:
    """Which entries of each old parameter and buffer the smaller network kept.

    Attributes:
        kept: By name of the tensor in the *new* network (names are those of the old one): for every dimension the
            indices that were kept, or ``None`` for all of them. A name of the old network that is missing here was
            removed whole, or is that of a tensor with another name, too.
        folded: Names of tensors whose values are not a selection of the old ones, because a constant was folded into
            them (their optimiser state is still selected by ``kept``).
    """

    kept: dict[str, tuple[Tensor | None, ...]] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)

    def select(self, name: str, tensor: Tensor) -> Tensor:
        """The part of ``tensor`` (shaped as the old ``name``) that the smaller network kept.

        Args:
            name: Name of the parameter.
            tensor: A tensor of the shape that it had.
        """
        for dim, index in enumerate(self.kept[name]):
            if index is not None:
                tensor = tensor.index_select(dim, index.to(tensor.device))
        return tensor


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        nll: Mean negative log-likelihood, nats per example: of a target with several entries (an image of labels, say)
            the sum over them. With weights, those of the examples times theirs, as in training.
        accuracy: Fraction of examples classified right, and of targets with several entries the fraction of these;
            each counted by its weight. NaN where targets are not classes.

    Examples:
        >>> Score(nll=0.3, accuracy=0.9).accuracy
        0.9
    """

    nll: float
    accuracy: float
