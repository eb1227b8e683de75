"""A network of the user's own, by import path: what ``--net my_module:make_net`` names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bayesprune.checked import meant, shown
from bayesprune.conversion.network import convert
from bayesprune.conversion.zoos import ZOOS, is_foreign
from bayesprune.errors import BayesPruneError, ConfigError, DataError
from bayesprune.graph import gates_of
from bayesprune.graph.misfit import misfits_named
from bayesprune.pruning.meter import eval_mode

EXPECTED = "expected MODULE:NAME or path/to/FILE.py:NAME"
_FILE = ".py"
_NOT_THE_USERS = os.path.join(os.path.dirname(torch.__file__), ""), os.path.join(str(Path(__file__).parents[1]), "")
"""Folders of code that says nothing of where a user's mistake is."""


def is_own(net: str) -> bool:
    """Whether a name is the import path of a network of one's own, such as ``my_module:make_net``."""
    return ":" in net and not is_foreign(net)


def check_code(net: str, run_code: bool, folder: Path) -> None:
    """Refuse to run the code that the record of a run names, unless the user says so.

    Args:
        net: The network of the run.
        run_code: Whether the user says so.
        folder: The folder of the run.

    Raises:
        ConfigError: for a network of one's own without leave.
    """
    if is_own(net) and not run_code:
        raise ConfigError(
            f"this takes the network that {folder} began with, which the code {net} makes; give --run-code if you "
            "trust it"
        )


@dataclass(frozen=True)
class OwnNetwork:
    """What builds the network of an import path; it can be sent to another process.

    Attributes:
        net: ``MODULE:NAME`` or ``path/to/FILE.py:NAME``, relative to the working directory. It names a function or
            class, which is called with ``input_shape`` and ``num_classes``, as many of them as it names, or, if it
            names neither, without arguments if it can be, and else with both in this order.
    """

    net: str

    def plain(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network as the user's code makes it, with gates or without.

        Args:
            input_shape: Shape of one example.
            num_classes: Number of outputs.

        Raises:
            ConfigError: if module or name are not there, the code fails, or what it makes is no network.
        """
        where, _, name = self.net.rpartition(":")
        make = _found(self.net, where, name)
        args, options = _arguments(make, input_shape, num_classes)
        try:
            made = make(*args, **options)
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"--net {self.net}: {name} failed for input_shape={input_shape}, num_classes={num_classes}: "
                f"{_said(error)}"
            ) from error
        if not isinstance(made, nn.Module):
            raise ConfigError(f"--net {self.net}: expected a torch.nn.Module from {name}, got {shown(made)}")
        return made

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """The network with gates: its own, or those that `bayesprune.convert` puts.

        Args:
            input_shape: Shape of one example.
            num_classes: Number of outputs.

        Raises:
            ConfigError: as `plain`, and if the network does not give a row of ``num_classes`` logits an example, or no
                place for a gate is found in it.
        """
        made = self.plain(input_shape, num_classes)
        example = torch.zeros(2, *input_shape)
        self._check_outputs(made, example, num_classes)
        if gates_of(made):
            return made
        try:
            return convert(made, example_input=example)
        except BayesPruneError as error:
            raise ConfigError(f"--net {self.net}: {error}") from error

    def _check_outputs(self, net: nn.Module, example: torch.Tensor, num_classes: int) -> None:
        shape, where = tuple(example.shape), f"--net {self.net}"
        try:
            with eval_mode(net), torch.random.fork_rng(devices=[]), misfits_named(net, example, where):
                given: Any = net(example)
        except DataError as error:
            raise ConfigError(
                f"{error}{_place(error.__cause__)}; the examples of --data have shape {shape[1:]}, of which it was "
                f"given {shape[0]}"
            ) from error
        except Exception as error:
            raise ConfigError(
                f"{where}: the network cannot be applied to inputs of shape {shape}, two examples of --data: "
                f"{_said(error)}"
            ) from error
        expected = (len(example), num_classes)
        if not isinstance(given, torch.Tensor) or tuple(given.shape) != expected or not given.is_floating_point():
            got = f"shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else f"a {type(given).__name__}"
            raise ConfigError(
                f"--net {self.net}: expected logits of shape {expected} for inputs of shape {shape}, one a class, got "
                f"{got}"
            )


def _found(net: str, where: str, name: str) -> Callable[..., Any]:
    """What the import path names: something that can be called and is no network itself.

    Args:
        net: The path, for messages.
        where: The module or file.
        name: What it has.
    """
    if not where or not name:
        raise ConfigError(f"--net {net}: {EXPECTED}")
    module = _of_file(os.path.abspath(where)) if where.endswith(_FILE) else _imported(net, where)
    try:
        made = getattr(module, name)
    except AttributeError:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"--net {net}: {where} has no {name!r}{meant(name, own)}; {EXPECTED}") from None
    if isinstance(made, nn.Module) or not callable(made):
        kind = "a network already" if isinstance(made, nn.Module) else shown(made)
        raise ConfigError(
            f"--net {net}: expected a function or class that makes a network, {name} is {kind}; write "
            "def make_net(input_shape, num_classes) that returns one"
        )
    return made  # type: ignore[no-any-return]


def _imported(net: str, module: str) -> ModuleType:
    """A module that is found in the working directory or where Python looks."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"--net {net}: no module {error.name!r} in {os.getcwd()} or where Python looks{meant(module, ZOOS)}; "
                f"{EXPECTED}"
            ) from None
        raise ConfigError(f"--net {net}: importing {module} failed: {_said(error)}") from error


@cache
def _of_file(path: str) -> ModuleType:
    """The module of a file, which is run once; what lies beside it can be imported."""
    if not os.path.isfile(path):
        raise ConfigError(f"--net: there is no file {path}; {EXPECTED}")
    file = Path(path)
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"_own_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--net: {path} failed: {_said(error)}") from error
    return module


def _arguments(
    make: Callable[..., Any], input_shape: tuple[int, ...], num_classes: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the user's function or class is called with.

    Args:
        make: The function or class.
        input_shape: Shape of one example.
        num_classes: Number of outputs.
    """
    both = {"input_shape": input_shape, "num_classes": num_classes}
    try:
        signature = inspect.signature(make)
    except ValueError:  # of what is written in C
        return tuple(both.values()), {}
    named = {key: value for key, value in both.items() if key in signature.parameters}
    for args, options in (((), named), ((), {})):
        try:
            signature.bind(*args, **options)
        except TypeError:
            continue
        return args, options
    return tuple(both.values()), {}


def _said(error: BaseException) -> str:
    """An error with the place that it comes from, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{_place(error)}"


def _place(error: BaseException | None) -> str:
    """The innermost line of code that an error comes from and that is neither torch's nor the library's, if any is."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    found = next((f for f in reversed(frames) if not f.filename.startswith(_NOT_THE_USERS)), None)
    return "" if found is None else f" ({Path(found.filename).name}, line {found.lineno})"
