"""What the checks refuse, and that the message says where, what and how much."""

import math

import pytest
import torch

from bayesprune.data import check_classes, check_inputs, check_labels
from bayesprune.errors import DataError


def verify_refusal(parts, check, *args):
    """``check`` raises DataError, and its message names the place and holds every one of ``parts``."""
    with pytest.raises(DataError) as caught:
        check(*args, "toy, training split")
    message = str(caught.value)
    for part in ["toy, training split: expected", *parts]:
        assert part in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_inputs_that_are_not_finite(value):
    x = torch.zeros(6, 2, 3)
    x[2, 1, 0] = x[2, 1, 1] = x[5, 0, 0] = value
    verify_refusal(["3 NaN or infinite values in 2 of 6 examples", "first in example 2"], check_inputs, x)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), ()])
def test_inputs_that_are_empty(shape):
    verify_refusal(["at least one example", str(shape)], check_inputs, torch.empty(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_good_inputs_pass(dtype):
    check_inputs(torch.arange(12).reshape(3, 4).to(dtype), "toy")


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (torch.tensor([0.0, 1.0]), ["integer labels", "torch.float32", ".long()"]),
        (torch.tensor([True, False]), ["integer labels", "torch.bool"]),
        (torch.tensor([], dtype=torch.int64), ["N > 0", "(0,)"]),
        (torch.eye(3, dtype=torch.int64), ["shape (3, 3)", "one-hot"]),
        (torch.tensor([0, 2, 3, 7]), ["0 to 2", "from 0 to 7", "2 of 4 outside", "at example 2"]),
        (torch.tensor([1, -1, 0]), ["from -1 to 1", "1 of 3 outside", "at example 1"]),
        (torch.tensor([2, 2, 2, 2]), ["at least two classes", "only class 2 in 4 examples"]),
    ],
)
def test_labels_that_cannot_be_classes(labels, parts):
    verify_refusal(parts, check_labels, labels, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_good_labels_pass(dtype):
    check_labels(torch.tensor([0, 2, 2], dtype=dtype), 3, "toy")


def test_classes_that_differ_are_named():
    verify_refusal(
        ["'cat' only in training", "'cow', 'dog' only in test"], check_classes, ["ant", "cat"], ["ant", "dog", "cow"]
    )
    verify_refusal(["'cat' only in training", "none only in test"], check_classes, ["ant", "cat"], ["ant"])


def test_a_long_list_of_classes_is_cut():
    names = [f"c{number:02d}" for number in range(12)]
    verify_refusal(["'c01', 'c02', 'c03', 'c04', 'c05' and 6 more only in training"], check_classes, names, names[:1])


def test_one_class():
    verify_refusal(["at least two classes, found 'ant'"], check_classes, ["ant"], ["ant"])


def test_the_order_of_classes_is_free():
    check_classes(["ant", "bee"], ["bee", "ant"], "toy")
