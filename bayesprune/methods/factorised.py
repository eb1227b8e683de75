"""Layers become thin ones in a row, whose weights end on a grid of few values (Cherniuk et al. 2023)."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol import Decision, Method, Needs, Phase, Run
from bayesprune.methods.protocol.ranking import whole_part
from bayesprune.methods.solvers.factors import product, quantised, without_grid
from bayesprune.methods.solvers.rows import factors_of, has_row, row_of, tensor_of, weights_of

LEAST = 8
"""Columns of factors that a layer has at least, as far as that is fewer weights than it had."""


class QuantisedFactors(Method):
    """Replaces layers by factors before the first step, trains these, puts their weights on grids, and tunes the rest.

    A linear layer of weight W ≈ A Bᵀ becomes two linear layers, a convolution one of R channels and a 1x1 one; with
    ``form="cp"`` a convolution becomes a 1x1, a depthwise and a 1x1 one. The grids' factors are those nearest to the
    product of the trained ones. From then on they rest; biases and normalisations train on. Give it a trained network
    for the paper's use: the first factors are the nearest to the weights that the network has. Layers that share
    parameters stay as they are, and so do those that are held under two names.

    Args:
        share: Which share of a layer's weights its factors have at most, as long as 8 columns are no more than that.
            Smaller layers have as many, or the most with which weights are saved, so that classes stay apart.
        bits: Each tensor of factors has 2^bits values at most.
        form: ``"matrix"`` or ``"cp"``.
        until: After which share of the run the weights are put on grids.

    Raises:
        ConfigError: for shares outside (0, 1), fewer than 2 or more than 16 bits, another form, and before training,
            for a network without a plain layer that factors make smaller and whose parameters are no other's.

    Examples:
        >>> QuantisedFactors(bits=4).options()
        {'share': 0.25, 'bits': 4, 'form': 'matrix', 'until': 0.5}

    Sources:
        Cherniuk, Abukhovich, Phan, Oseledets, Cichocki & Gusak 2023, "Quantization Aware Factorization for Deep Neural
        Network Compression". There a trained network is factorised once, and normalisations are estimated anew; that
        factors train before, what trains after, and the least number of columns are ours. Its Tucker form is not here.
    """

    name: ClassVar[str] = "factorised"

    @checked_arguments
    def __init__(
        self,
        share: float = 0.25,
        bits: int = 8,
        form: Literal["matrix", "cp"] = "matrix",
        until: float = 0.5,
    ):
        super().__init__()
        if form not in ("matrix", "cp"):
            raise ConfigError(f"factorised: form must be 'matrix' or 'cp', got {form!r}")
        self.share = real("factorised: share", share, 0, 1)
        self.bits = whole("factorised: bits", bits, 2)
        if self.bits > 16:
            raise ConfigError(f"factorised: bits must be at most 16, got {bits}")
        self.form = form
        self.until = real("factorised: until", until, 0, 1)
        self._rows: list[str] = []

    def setup(self, run: Run) -> Needs:
        """Replace layers.

        Raises:
            ConfigError: if there is none.
        """
        net = run.net.net
        held = Counter(parameter for _, parameter in net.named_parameters(remove_duplicate=False))
        alone = {name: m for name, m in net.named_modules() if name and all(held[p] == 1 for p in m.parameters())}
        found = {name: row for name, layer in alone.items() if (row := self.row_of(layer))}
        if not found:
            raise ConfigError(
                "factorised: no linear layer or convolution without gate and groups, whose parameters are no "
                "other's, is so large that factors have fewer weights; take a wider network"
            )
        for name, row in found.items():
            net.set_submodule(name, row)
        run.net.exchange(net)
        self._rows = list(found)
        return Needs((Phase("train", share=self.until), Phase("tune", share=1 - self.until)))

    def row_of(self, layer: nn.Module) -> nn.Sequential | None:
        """The layers that take the place of one, with the nearest weights; ``None`` where it stays.

        Args:
            layer: Any module.
        """
        if not has_row(layer):
            return None
        tensor = tensor_of(layer, self.form)
        column = sum(tensor.shape)
        most = (tensor.numel() - 1) // column  # with which there are fewer weights
        rank = max(whole_part(self.share, tensor.numel() / column), min(LEAST, most))
        return row_of(layer, without_grid(tensor, rank)) if most else None

    def grads(self, run: Run) -> None:
        """Let factors rest that are on their grids."""
        if run.phase.name == "tune":
            for name in self._rows:
                for layer in run.net.net.get_submodule(name).children():
                    layer.get_parameter("weight").grad = None

    def decide(self, run: Run) -> Decision:
        """Put factors on grids, as the first phase ends."""
        decision = Decision()
        if run.phase.name != "train":
            return decision
        for name in self._rows:
            row = run.net.net.get_submodule(name)
            factors = factors_of(row)
            found, spent = run.engine.broadcast(quantised(product(factors), factors, self.bits))
            decision.spent += spent
            decision.assign |= {f"{name}.{key}": weight for key, weight in weights_of(row, found).items()}
        return decision
