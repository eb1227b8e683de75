"""Few weights for each output that give nearly what it gave: after "ℓ0 constrained, layer by layer" (2020)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol.layerwise import LayerByLayer
from bayesprune.methods.protocol.signals import LinearMap
from bayesprune.methods.solvers.subsets import Found, best_subsets, one_sided, pursued

EXACT, EXAMPLES = 30, 4
"""Up to how many inputs sets of them are searched through, and how many examples an input serve a mixed program."""


class LayerwiseL0(LayerByLayer):
    """Finds for each output the weights of a given number that give, by least squares, what it gave before.

    Of up to 30 inputs the best set is found, by branch and bound; of more, one by pursuit. With ``relu``, what is
    sought are the values behind the ReLU: those that were 0 may be anything below, errors count by their size, and a
    mixed integer program finds the weights. Biases are no weights here. Then what is left is trained.

    Args:
        sparsity: Which share of each output's weights is 0; one is left at least.
        cascade: As for `LayerByLayer`.
        examples: As for `LayerByLayer`.
        until: As for `LayerByLayer`.
        relu: Whether the layers that a ReLU follows have to give the same behind it alone.

    Attributes:
        gaps: By layer, in the order in which they are called, the largest share of an output's error of which it is
            not shown that no set of as many inputs does without: 0 where all sets are the best, and 1 beforehand.

    Raises:
        ConfigError: as `LayerByLayer`, for a sparsity outside (0, 1), and before training, with ``relu``, for more
            than 30 inputs before a ReLU.

    Examples:
        >>> LayerwiseL0(sparsity=0.8).options()
        {'sparsity': 0.8, 'cascade': False, 'examples': 1000, 'until': 0.5, 'relu': False}

    Sources:
        Ours, after the abstract of a paper of ICDM 2020 on layer-wise models with ℓ0 constraints, one for any
        activation and one for ReLU, the latter solved to optimality by cutting planes. Blumensath & Davies 2009,
        "Iterative Hard Thresholding for Compressed Sensing", and Foucart 2011, "Hard Thresholding Pursuit", for the
        pursuit.
    """

    name: ClassVar[str] = "layerwise_l0"
    gaps: Tensor

    @checked_arguments
    def __init__(
        self,
        sparsity: float = 0.9,
        cascade: bool = False,
        examples: int = 1000,
        until: float = 0.5,
        relu: bool = False,
    ):
        super().__init__(cascade, examples, until)
        self.sparsity = real("layerwise_l0: sparsity", sparsity, 0, 1)
        self.relu = relu
        self._places: dict[str, int] = {}

    def check_layers(self, layers: list[LinearMap]) -> None:
        """Refuse mixed programs that are too large."""
        large = next((layer for layer in layers if layer.rectified and layer.inputs > EXACT), None)
        if self.relu and large is not None:
            raise ConfigError(
                f"layerwise_l0: {large.name.removesuffix('.weight')!r} has {large.inputs} inputs, and with relu=True "
                f"the best of more than {EXACT} cannot be found in time; take relu=False"
            )
        self._places = {layer.name: number for number, layer in enumerate(layers)}
        self.register_buffer("gaps", torch.ones(len(layers), dtype=torch.float64))

    def solve(self, layer: LinearMap, x: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
        """The best weights, see the class."""
        size = max(1, round((1 - self.sparsity) * layer.inputs))
        behind = self.relu and layer.rectified
        found = _behind_relu(layer, x, outputs, size) if behind else _least_squares(layer, x, outputs, size)
        self.gaps[self._places[layer.name]] = found.gap.max()
        return found.weights, found.spent


def _least_squares(layer: LinearMap, x: Tensor, outputs: Tensor, size: int) -> Found:
    """The weights of least squares, and the biases that go with them.

    Args:
        layer: The layer.
        x: What goes in.
        outputs: What should come out.
        size: The most weights of an output.
    """
    n, bias = layer.inputs, layer.bias is not None
    center, mean = (v.mean(0) if bias else torch.zeros_like(v[0]) for v in (x[:, :n], outputs))
    inputs, target = x[:, :n] - center, outputs - mean
    gram, cross, squares = inputs.T @ inputs, inputs.T @ target, target.square().sum(0)
    if n <= EXACT:
        found = best_subsets(gram, cross, squares, size)
    else:
        found = pursued(gram, cross, squares, size, layer.matrix()[:n])
    weights = torch.cat([found.weights, (mean - center @ found.weights)[None]]) if bias else found.weights
    return Found(weights, found.gap, found.spent + float(len(x)) * n * (n + target.shape[1]))


def _behind_relu(layer: LinearMap, x: Tensor, outputs: Tensor, size: int) -> Found:
    """The weights of the mixed integer program; each node is charged one pass over its table of constraints.

    Args:
        layer: The layer.
        x: What goes in.
        outputs: What should come out.
        size: The most weights of an output.
    """
    some = x[: EXAMPLES * layer.inputs].numpy()
    bias = layer.bias is not None
    solved = [one_sided(some, y, size, bias=bias) for y in outputs[: len(some)].relu().numpy().T]
    weights, gaps, nodes = zip(*solved, strict=True)
    table = float(2 * len(some) * (len(some) + 2 * x.shape[1]))
    return Found(torch.from_numpy(np.stack(weights, 1)), torch.tensor(gaps), sum(nodes) * table)
