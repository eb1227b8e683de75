"""Bad calls of the public functions and classes: each is refused in one line that names the argument, or works."""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune
from bayesprune.errors import BayesPruneError
from tests.fuzz.calls import CALLS
from tests.fuzz.limits import SECONDS, at_most
from tests.fuzz.uncalled import RUN, UNCHECKED

ROOMS = [name for name in bayesprune.__all__ if inspect.ismodule(getattr(bayesprune, name))] + ["reports", "sklearn"]
NUMBER_OF_CALLS = 300

BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a word": lambda: "x",
    "no word": lambda: "",
    "a null character": lambda: "a\0b",
    "bytes": lambda: b"x",
    "-1": lambda: -1,
    "0": lambda: 0,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "10**30": lambda: 10**30,
    "True": lambda: True,
    "an object": object,
    "a class": lambda: int,
    "a function": lambda: lambda *args, **kwargs: None,
    "a used-up iterator": lambda: iter(()),
    "[]": list,
    "()": tuple,
    "{}": dict,
    "[None]": lambda: [None],
    "[[[]]]": lambda: [[[]]],
    "two words": lambda: ["a", "a"],
    "(0, 0)": lambda: (0, 0),
    "(-1, 2)": lambda: (-1, 2),
    "{'a': None}": lambda: {"a": None},
    "{1: 2}": lambda: {1: 2},
    "an empty tensor": lambda: torch.empty(0),
    "a tensor of NaN": lambda: torch.full((8, 4), torch.nan),
    "a negative tensor": lambda: -torch.ones(8, 4),
    "a tensor of five dimensions": lambda: torch.zeros(2, 2, 2, 2, 2),
    "a tensor without dimensions": lambda: torch.tensor(0.5),
    "a complex tensor": lambda: torch.zeros(3, dtype=torch.complex64),
    "an integer tensor": lambda: torch.zeros(3, dtype=torch.int64),
    "a boolean tensor": lambda: torch.zeros(2, dtype=torch.bool),
    "an array of objects": lambda: np.zeros((2, 2), dtype=object),
    "another network": lambda: nn.Linear(2, 2),
    "a module without forward": nn.Module,
}


def fault(name: str, argument: str, bad: str) -> str | None:
    """What is wrong with how a call ends in which one argument is bad; ``None`` for nothing."""
    called, given = CALLS[name]()
    given[argument] = BAD[bad]()
    try:
        with at_most(SECONDS), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            called(**given)
    except BayesPruneError as error:
        said, named = str(error), True
    except (TypeError, ValueError) as error:
        said, named = str(error), argument in str(error) or name in str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    else:
        return None
    return None if named and said and "\n" not in said else f"not in one line that names it: {said}"


def call_well(name: str) -> None:
    """The good call of ``name`` ends well, or as it must for what needs a file or a network that is not there."""
    called, given = CALLS[name]()
    refused = name in ("load", "read_run", "from_torchvision")
    with pytest.raises(BayesPruneError) if refused else contextlib.nullcontext():
        called(**given)


def bad_calls() -> list[tuple[str, str, str]]:
    """All that are to be refused: names of the call, of the argument, and of the value."""
    return [
        (name, argument, bad)
        for name, make in CALLS.items()
        for argument in make()[1]
        for bad in BAD
        if argument not in RUN.get(name, ())
    ]


def test_every_public_name_is_called_or_it_is_said_why_not() -> None:
    public = set()
    for room in ROOMS:
        module = import_module(f"bayesprune.{room}")
        public |= {name for name in module.__all__ if callable(getattr(module, name))}
    public |= {name for name in bayesprune.__all__ if callable(getattr(bayesprune, name))}
    unchecked = [name for names in UNCHECKED.values() for name in names]
    assert public - set(CALLS) - set(unchecked) == set()
    assert set(unchecked) & set(CALLS) == set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_bad_calls_are_refused(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = random.Random(seed).sample(bad_calls(), NUMBER_OF_CALLS)
    for name in CALLS:  # so that none is left out
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            call_well(name)
        calls = [call for call in bad_calls() if call[0] == name]
        chosen += random.Random(f"{seed} {name}").sample(calls, min(1, len(calls)))
    faults = {call: found for call in chosen if (found := fault(*call))}
    assert not faults, "\n".join(f"{call}: {found}" for call, found in faults.items())
