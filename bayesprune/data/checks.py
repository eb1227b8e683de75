"""What a data set must satisfy before a network is trained on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import DataError

_NAMES_SHOWN = 5


@checked_arguments
def check_inputs(x: Tensor, where: str) -> None:
    """Refuse inputs that are empty, NaN or infinite.

    Args:
        x: Inputs, shape ``(N, ...)``.
        where: What the inputs are, for the message ("mnist, training split").

    Raises:
        DataError: with the number of bad values and the first example that has one.
    """
    if x.dim() == 0 or x.numel() == 0:
        raise DataError(
            f"{where}: expected at least one example, found a tensor of shape {tuple(x.shape)}; check that the files "
            "are complete and the selection is not empty"
        )
    if not x.is_floating_point():
        return
    bad = ~torch.isfinite(x)
    if bad.any():
        rows = bad.reshape(len(x), -1).any(dim=1).nonzero()
        raise DataError(
            f"{where}: expected finite inputs, found {int(bad.sum())} NaN or infinite values in {len(rows)} of "
            f"{len(x)} examples, first in example {int(rows[0])}; drop or impute those examples"
        )


@checked_arguments
def check_labels(y: Tensor, num_classes: int, where: str) -> None:
    """Refuse the labels of a whole split that a classifier cannot be trained on or judged by.

    Args:
        y: Labels of all examples of a split (a single batch may rightly hold one class only), shape ``(N,)``,
            integers in [0, num_classes).
        num_classes: Number of classes.
        where: What the labels belong to, for the message.

    Raises:
        DataError: if ``y`` is empty, not integer, not one-dimensional, out of range or all of one class.
    """
    num_classes = whole(f"{where}: num_classes", num_classes)
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise DataError(
            f"{where}: expected integer labels, found {y.dtype}; convert class numbers with .long(), and use a "
            "Gaussian or Bernoulli likelihood for targets that are not classes"
        )
    if y.dim() != 1 or y.numel() == 0:
        raise DataError(
            f"{where}: expected one label an example in shape (N,) with N > 0, found shape {tuple(y.shape)}; "
            "give class numbers, not one-hot rows, and check that the files are complete"
        )
    wrong = (y < 0) | (y >= num_classes)
    if wrong.any():
        raise DataError(
            f"{where}: expected labels from 0 to {num_classes - 1}, found labels from {int(y.min())} to {int(y.max())} "
            f"({int(wrong.sum())} of {len(y)} outside, first at example {int(wrong.nonzero()[0])}); number the classes "
            "from 0 or correct the number of classes"
        )
    if bool((y == y[0]).all()):
        raise DataError(
            f"{where}: expected at least two classes, found only class {int(y[0])} in {len(y)} examples; "
            "use a larger selection, or check that the files are complete"
        )


@checked_arguments
def check_classes(train: Sequence[str], test: Sequence[str], where: str) -> None:
    """Refuse a training and a test split that do not have the same classes.

    Args:
        train: Class names of the training split.
        test: Class names of the test split.
        where: What the classes belong to, for the message.

    Raises:
        DataError: with the names that only one of the splits has, or if there are fewer than two.
    """
    only_train, only_test = set(train) - set(test), set(test) - set(train)
    if only_train or only_test:
        raise DataError(
            f"{where}: expected the same classes in the training and the test split, found {_names(only_train)} only "
            f"in training and {_names(only_test)} only in test; rename or remove these classes"
        )
    if len(train) < 2:
        raise DataError(f"{where}: expected at least two classes, found {_names(set(train))}; add the other classes")


def _names(names: set[str]) -> str:
    """The first few of ``names`` for a message, and how many more there are."""
    shown = ", ".join(repr(name) for name in sorted(names)[:_NAMES_SHOWN]) or "none"
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
