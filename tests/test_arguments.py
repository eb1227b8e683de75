"""Arguments against annotations, by values that fit and values that do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.data import load
from bayesprune.errors import ConfigError
from bayesprune.infer import BayesianNet
from bayesprune.methods import get_method
from bayesprune.networks import build
from bayesprune.training import Budget, Settings, fit


@checked_arguments
def several(
    net: nn.Module = nn.Identity(),  # noqa: B008
    text: str = "",
    path: str | os.PathLike[str] = "",
    flag: bool = False,
    tensor: Tensor | float = 0.0,
    count: int | None = None,
    shape: tuple[int, ...] = (),
    pair: tuple[str, int] = ("a", 1),
    names: Sequence[str] | None = None,
    by_name: Mapping[str, Tensor] | None = None,
    each: Iterable[Tensor] = (),
    call: Callable[..., Any] = print,
    anything: Any = None,
) -> str:
    return "done"


@pytest.mark.parametrize(
    "given",
    [
        {"net": nn.Linear(1, 1)},
        {"path": Path("a")},
        {"flag": np.bool_(True)},
        {"tensor": torch.zeros(3)},
        {"tensor": 1},
        {"tensor": np.float32(1)},
        {"tensor": torch.tensor(2)},
        {"count": None},
        {"count": "left to the target, which knows the range"},
        {"shape": torch.Size([1, 2])},
        {"shape": [1, 2]},
        {"shape": np.array([1, 2])},
        {"pair": ["a", 2]},
        {"names": ["a", "b"]},
        {"names": np.array(["a", "b"])},
        {"by_name": {"a": torch.zeros(1)}},
        {"each": iter(())},
        {"call": nn.Linear},
        {"anything": object()},
    ],
    ids=lambda given: ", ".join(given),
)
def test_what_fits_is_let_through(given: dict[str, Any]) -> None:
    assert several(**given) == "done"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"net": "x"}, "several: net must be a torch Module, got 'x'"),
        ({"net": nn.Linear}, "net must be a torch Module, got <class 'torch.nn.modules.linear.Linear'>"),
        ({"text": None}, "text must be a string, got None"),
        ({"path": 3}, "path must be a string or a path, got 3"),
        ({"path": "a\0b"}, r"path must be a string or a path, got 'a\x00b'"),
        ({"flag": 1}, "flag must be True or False, got 1"),
        ({"tensor": "x"}, "tensor must be a real torch Tensor or a number, got 'x'"),
        ({"tensor": True}, "tensor must be a real torch Tensor or a number, got True"),
        ({"tensor": 2**63}, "a number, got 9223372036854775808"),
        (
            {"tensor": torch.zeros(2, 3, dtype=torch.complex64)},
            "a number, got a Tensor of torch.complex64 and shape (2, 3)",
        ),
        ({"shape": 3}, "shape must be a sequence, each a number, got 3"),
        ({"shape": torch.tensor(3)}, "shape must be a sequence, each a number, got tensor(3)"),
        ({"shape": "12"}, "shape must be a sequence, each a number, got '12'"),
        ({"pair": ("a",)}, "pair must be (a string, a number), got ('a',)"),
        ({"names": "ab"}, "names must be a sequence, each a string or None, got 'ab'"),
        ({"names": ["a", None]}, "names must be a sequence, each a string or None, got ['a', None]"),
        ({"by_name": {"a": 1}}, "by_name must be a mapping or None, got {'a': 1}"),
        ({"each": torch.tensor(1.0)}, "each must be an iterable, got tensor(1.)"),
        ({"call": 1}, "call must be callable, got 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        several(**given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@checked_arguments
def export(model: Any, example: Any, path: str | os.PathLike[str]) -> None:
    """Arguments two of which take anything."""


def test_two_arguments_in_the_wrong_order_are_told_the_order() -> None:
    said = r"export: path must be a string or a path, got a Tensor .*; the call is export\(model, example, path\)$"
    with pytest.raises(ConfigError, match=said):
        export(None, "a.onnx", torch.zeros(2, 2))
    with pytest.raises(ConfigError, match=r"path must be a string or a path, got 3$"):
        export(None, torch.zeros(2, 2), 3)


def test_long_values_are_named_by_their_kind() -> None:
    with pytest.raises(ConfigError, match=r"text must be a string, got a list$"):
        several(text=list(range(100)))  # type: ignore[arg-type]


def test_methods_and_dataclasses_say_the_class() -> None:
    @checked_arguments
    @dataclass(frozen=True)
    class Record:
        name: str

    class Layer:
        @checked_arguments
        def __init__(self, name: str):
            self.name = name

    for kind in (Record, Layer, type("Other", (Layer,), {})):
        assert kind("a").name == "a"
        with pytest.raises(ConfigError, match=f"^{kind.__name__}: name must be a string, got 1$"):
            kind(1)


def test_what_is_missing_or_unknown_is_said_by_python() -> None:
    @checked_arguments
    def one(x: Tensor) -> None: ...

    with pytest.raises(TypeError, match="one\\(\\) missing 1 required positional argument: 'x'"):
        one()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        one(y=1)  # type: ignore[call-arg]


def test_where_an_unknown_argument_belongs() -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(
        TypeError, match=r"^fit\(\) got .* 'lr'; give settings=bayesprune\.training\.Settings\(lr=\.\.\.\)$"
    ):
        fit(net, [], epochs=1, lr=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^fit\(\) got an unexpected .* 'epoch'; did you mean 'epochs'\?$"):
        fit(net, [], epoch=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^Settings.__init__\(\) got .* 'temprature'; did you mean 'temperature'\?$"):
        Settings(temprature=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("call", "guess"),
    [
        (lambda: get_method("l1_filter"), "l1_filters"),
        (lambda: get_method("magnitude", sparsty=0.5), "sparsity"),
        (lambda: load("MNIST"), "mnist"),
        (lambda: load("digit"), "digits"),
        (lambda: build("lenet-300", (1, 8, 8), 10), "lenet300"),
        (lambda: BayesianNet(nn.Linear(1, 1), "possion", num_data=1), "poisson"),
        (lambda: BayesianNet(nn.Linear(1, 1), num_data=1, weights="norml"), "normal"),
        (lambda: Budget.parse("mac=0.5"), "macs"),
    ],
)
def test_names_that_nearly_are_one_are_guessed(call: Callable[[], Any], guess: str) -> None:
    with pytest.raises(ConfigError, match=rf"\(did you mean '{guess}'\?\)"):
        call()


def test_no_guess_without_a_likeness() -> None:
    with pytest.raises(ConfigError, match=r"^unknown method 'zzz'; known are"):
        get_method("zzz")


@checked_arguments
def taking(size: int | str) -> int | str:
    return size


@pytest.mark.parametrize("digits", [60, 5_000])
def test_a_number_of_very_many_digits_is_not_written_out(digits: int) -> None:
    for value in (10**digits, -(10**digits)):
        with pytest.raises(ConfigError, match=r"taking: size must be .*, got a number of more than 50 digits$"):
            taking(value)
