"""What figures of predictions can be computed from."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.errors import DataError

_OFF_BY = 1e-2
"""How far the sum of an example's probabilities may be from 1: bfloat16 rounds each by up to 0.4 %."""


def vectors(where: str, **given: Tensor) -> list[Tensor]:
    """Tensors of one shape that hold at least one number each, all finite, flat, in float64 on the CPU.

    Args:
        where: The function that was called, for the message.
        **given: The tensors, by the names they have in that function.

    Raises:
        DataError: if they are empty, of different shapes, or hold NaN or infinite values.
    """
    shapes = {name: tuple(values.shape) for name, values in given.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{where}: expected tensors of one shape, found {shapes}; a column (N, 1) needs .squeeze(1)")
    return [_finite(where, name, values).flatten() for name, values in given.items()]


def class_probabilities(where: str, probabilities: Tensor) -> Tensor:
    """Class probabilities of shape (N, C), in float64 on the CPU.

    Args:
        where: The function that was called, for the message.
        probabilities: A row an example.

    Raises:
        DataError: for another shape, fewer than two classes, or rows that are no probabilities.
    """
    if probabilities.dim() != 2 or probabilities.shape[1] < 2:
        raise DataError(
            f"{where}: expected probabilities of shape (examples, classes), at least two classes, found shape "
            f"{tuple(probabilities.shape)}; of two classes give both columns, 1 - p and p"
        )
    found = _finite(where, "probabilities", probabilities)
    wrong = (found < 0).any(1) | ((found.sum(1) - 1).abs() > _OFF_BY)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{where}: expected rows of probabilities, not negative and with sum 1, found {int(wrong.sum())} of "
            f"{len(found)} that are not, first row {row} with sum {float(found[row].sum()):.4g} and lowest value "
            f"{float(found[row].min()):.4g}; of logits take .softmax(1) first"
        )
    return found


def class_labels(where: str, labels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Labels of shape (N,), int64, on the CPU.

    Args:
        where: The function that was called, for the message.
        labels: Class numbers.
        shape: Number of examples and of classes.

    Raises:
        DataError: for another shape, or unless labels are integers from 0 to C - 1.
    """
    examples, classes = shape
    if labels.shape != (examples,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"{where}: expected one integer label for each of the {examples} rows of probabilities, found shape "
            f"{tuple(labels.shape)} of {labels.dtype}; give class numbers, not one-hot rows"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise DataError(
            f"{where}: expected labels from 0 to {classes - 1}, one for each column of the probabilities, found labels "
            f"from {int(labels.min())} to {int(labels.max())}; number the classes from 0"
        )
    return labels.cpu().long()


def _finite(where: str, name: str, values: Tensor) -> Tensor:
    if values.numel() == 0:
        raise DataError(f"{where}: expected at least one example, found {name} of shape {tuple(values.shape)}")
    found = values.detach().cpu().double()
    bad = int((~found.isfinite()).sum())
    if bad:
        raise DataError(
            f"{where}: expected finite {name}, found {bad} of {found.numel()} values NaN or infinite; look at the "
            "outputs of the network for these examples"
        )
    return found
