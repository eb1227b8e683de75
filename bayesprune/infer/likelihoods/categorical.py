"""Class labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from bayesprune.checked import real, shown
from bayesprune.errors import ConfigError, DataError
from bayesprune.infer.likelihoods.base import Likelihood, fraction_right
from bayesprune.infer.likelihoods.laws import SmoothedCategorical, WeighedCategorical
from bayesprune.infer.prediction import ClassPrediction, per_example


class Categorical(Likelihood):
    """Class labels; outputs are logits, shape ``(B, K)``, targets integers in [0, K), shape ``(B,)``.

    Images and sequences have a label an entry: outputs ``(B, K, ...)``, targets ``(B, ...)``. The entries of an example
    are independent given the outputs, so its log-likelihood is their sum, in nats per example; accuracy is the fraction
    of entries.

    Args:
        label_smoothing: ε; with ε > 0 the log-likelihood is averaged over labels that are wrong (uniform) with
            probability ε. It keeps the fitted log-likelihood of a flexible network finite, so that the price of a
            structure keeps its weight until the end of training.
        class_weight: How much a label of each class counts, K numbers, finite and not negative; ``None`` for all alike.
            Losses are sums and means over examples, not divided by the weights in a batch: they are those of torch's
            ``cross_entropy(..., weight=class_weight, reduction="none")`` (without smoothing). Let the weights average 1
            over the labels of the data set, as N/(K N_k) does for N_k examples of class k, so that they shift the
            emphasis among the classes and not that between data and prior. Predictions know no weights.

    Raises:
        ConfigError: for ε outside [0, 1), and weights that cannot be.

    Examples:
        >>> Categorical().nll(torch.zeros(1, 4), torch.tensor([2]))  # log 4
        tensor([1.3863])
    """

    name = "categorical"
    class_weight: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, *, class_weight: Tensor | Sequence[float] | None = None):
        super().__init__()
        self.label_smoothing = real("categorical likelihood: label_smoothing", label_smoothing, 0, 1, "[)")
        try:
            weights = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.get_default_dtype())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"categorical likelihood: class_weight must hold one number a class, got {shown(class_weight)}"
            ) from error
        if weights is not None and not (weights.dim() == 1 and _are_weights(weights)):
            raise ConfigError(
                "categorical likelihood: class_weight must hold one number a class, finite, not negative and not all "
                f"0, got {weights.tolist()}"
            )
        self.register_buffer("class_weight", weights, persistent=False)

    def distribution(self, outputs: Tensor) -> dist.TorchDistribution:
        """Categorical(softmax(outputs)), smoothed and weighted if asked for, independent over the entries."""
        logits = outputs.movedim(1, -1)
        if self.class_weight is not None:
            law = WeighedCategorical(logits, self.label_smoothing, self.class_weight)
        elif self.label_smoothing:
            law = SmoothedCategorical(logits, self.label_smoothing)
        else:
            law = dist.Categorical(logits=logits)
        return law.to_event(outputs.dim() - 2)

    def nll(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy times the weight of the class, summed over the entries of each example."""
        y = y.long()
        per_entry = F.cross_entropy(outputs, y, reduction="none", label_smoothing=self.label_smoothing)
        if self.class_weight is not None:
            per_entry = self.class_weight[y] * per_entry
        return per_example(per_entry)

    def mean(self, outputs: Tensor) -> Tensor:
        """Class probabilities, over dimension 1."""
        return outputs.softmax(1)

    def summarize(self, outputs: Tensor) -> ClassPrediction:
        """With the log probabilities of every class."""
        samples = self.means(outputs)
        return ClassPrediction(samples.mean(0), samples, outputs.log_softmax(2).movedim(2, -1))

    def observed(self, y: Tensor) -> Tensor:
        """Labels as integers."""
        return y.long()

    def target_shape(self, outputs: Tensor) -> torch.Size:
        """One label an example, or one an entry."""
        return outputs.shape[2:]

    def settings(self) -> dict[str, Any]:
        """The smoothing, and weights of classes if there are any."""
        weights = {} if self.class_weight is None else {"class_weight": self.class_weight.tolist()}
        return super().settings() | weights

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether the most probable class is the label; for several labels an example the fraction that is."""
        return fraction_right(outputs.argmax(1) == y)

    def possible(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Labels in [0, K)."""
        return (y >= 0) & (y < outputs.shape[1])

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Labels must be integers in [0, K)."""
        super().check(outputs, y)
        if outputs.dim() < 2:
            raise DataError(
                f"categorical likelihood: expected outputs of shape (batch, classes), got {tuple(outputs.shape)}"
            )
        expected = (len(y), *outputs.shape[2:])
        if y.is_floating_point() or y.is_complex() or y.shape != expected:
            wanted = ", ".join(["batch", *map(str, expected[1:])]) + ("," if len(expected) == 1 else "")
            raise DataError(
                f"categorical likelihood: expected integer labels of shape ({wanted}), got {y.dtype} of shape "
                f"{tuple(y.shape)} for outputs of shape {tuple(outputs.shape)}, whose dimension 1 are the classes; try "
                "y.long(), y.squeeze(1) or, of one-hot labels, y.argmax(1)"
            )
        if self.class_weight is not None and len(self.class_weight) != outputs.shape[1]:
            raise DataError(
                f"categorical likelihood: class_weight has {len(self.class_weight)} numbers, but the network has "
                f"{outputs.shape[1]} outputs; give one a class"
            )
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"categorical likelihood: labels run from {low} to {high}, but the network has "
                f"{outputs.shape[1]} outputs, so they must be in [0, {outputs.shape[1] - 1}]; give "
                "the network as many outputs as there are classes (with one output take likelihood='bernoulli'), and "
                "leave out examples without a label"
            )


def _are_weights(weights: Tensor) -> bool:
    return bool((weights.isfinite() & (weights >= 0)).all()) and bool(weights.any())
