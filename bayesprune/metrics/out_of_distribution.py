"""Whether a network is less sure of inputs unlike those it was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.metrics.checks import class_probabilities, vectors


@checked_arguments
def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of every example's class probabilities, nats, shape ``(N,)``: 0 for a sure one, log C for none.

    Args:
        probabilities: Shape ``(N, C)``, rows that sum to 1. Of a posterior predictive this is the predictive entropy.

    Raises:
        DataError: if they are no probabilities.
    """
    return torch.special.entr(class_probabilities("entropy", probabilities)).sum(1)


@checked_arguments
def auroc(inside_scores: Tensor, outside_scores: Tensor) -> float:
    """Area under the ROC curve of telling examples from outside by their higher scores.

    It is the probability that an example from outside has a higher score than one from inside, ties counted half: 1
    for scores that separate them, ½ for scores that say nothing.

    Args:
        inside_scores: Scores of inputs like those of training, for example entropies, shape ``(N,)``.
        outside_scores: Scores of others, shape ``(M,)``.

    Raises:
        DataError: if one of them is empty or holds NaN or infinite values.
    """
    from torchmetrics.functional.classification import binary_auroc  # slow to import

    (inside,), (outside,) = vectors("auroc", inside=inside_scores), vectors("auroc", outside=outside_scores)
    # torchmetrics takes scores above 1 for logits, whose sigmoids may be equal where scores are not; ranks stay apart.
    ranks = torch.cat([inside, outside]).unique(return_inverse=True)[1]
    is_outside = torch.cat([torch.zeros_like(inside), torch.ones_like(outside)])
    return float(binary_auroc(ranks.double() / len(ranks), is_outside.long()))
