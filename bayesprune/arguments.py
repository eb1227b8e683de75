"""Arguments of the kinds that a signature states, or refused in one line that names the argument."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from bayesprune.checked import LARGEST, is_scalar, meant, plain, shown
from bayesprune.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
_NUMBERS = (int, float)


def checked_arguments(target: F) -> F:
    """Let a function, or a dataclass when it is made, refuse arguments that its annotations do not allow.

    It is for what users call, and not for what runs in every step of training. Arguments that are numbers and nothing
    else are left to the target, which knows their range.

    Args:
        target: A function with annotations, or a dataclass.

    Returns:
        The target, which raises `ConfigError` before it does anything.
    """
    if isinstance(target, type):
        target.__init__ = checked_arguments(target.__init__)  # type: ignore[misc]
        return cast(F, target)
    signature = inspect.signature(target)
    kinds = functools.cache(lambda: _kinds(target, signature))  # names in annotations may be defined further down

    @functools.wraps(target)
    def checking(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # an argument is missing or unknown: Python says so itself, if nothing more is known
            said = _belongs(kwargs, target, kinds())
            if said:
                raise TypeError(said) from None
            return target(*args, **kwargs)
        for name, kind in kinds().items():
            if name in given and not _fits(given[name], kind):
                where = type(args[0]).__name__ if target.__name__ == "__init__" else target.__name__
                order = f"; the call is {where}({', '.join(signature.parameters)})"
                told = order if _is_at_another_place(name, given, kinds()) else ""
                raise ConfigError(f"{where}: {name} must be {_called(kind)}, got {shown(given[name])}{told}")
        return target(*args, **kwargs)

    return cast(F, checking)


def _belongs(given: Mapping[str, Any], target: Callable[..., Any], kinds: Mapping[str, Any]) -> str:
    """What is said of the first argument that is unknown but may belong somewhere; nothing if there is none such.

    It may be a field of a record that is itself an argument, or be like the name of an argument.

    Args:
        given: Arguments by name.
        target: What was called.
        kinds: What annotations state of its parameters.
    """
    names = inspect.signature(target).parameters
    unknown = next((name for name in given if name not in names), None)
    if unknown is None:
        return ""
    hint = meant(unknown, names).strip(" ()")
    for name, kind in kinds.items():
        for record in _choices(kind):
            if isinstance(record, type) and is_dataclass(record) and unknown in (each.name for each in fields(record)):
                hint = f"give {name}={_public(record, target)}({unknown}=...)"
    return f"{target.__qualname__}() got an unexpected keyword argument {unknown!r}; {hint}" if hint else ""


def _public(record: type, target: Callable[..., Any]) -> str:
    """The name by which users of a function import a record: from the function's own package, where that has it."""
    homes = [each.__module__.rpartition(".")[0] for each in (target, record)]
    home = next((home for home in homes if hasattr(sys.modules.get(home), record.__name__)), record.__module__)
    return f"{home}.{record.__name__}"


def _kinds(target: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """By name of the parameter, what its annotation states, where that can be checked."""
    hints = get_type_hints(target)
    single = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [name for name, parameter in signature.parameters.items() if parameter.kind not in single]
    return {name: hints[name] for name in names if name in hints and not _is_number(hints[name])}


def _is_at_another_place(name: str, given: Mapping[str, Any], kinds: Mapping[str, Any]) -> bool:
    """Whether what an argument ought to be stands in place of another one that takes anything.

    Args:
        name: The argument.
        given: What is given, by name.
        kinds: What each ought to be.
    """
    return any(kind is Any and other in given and _fits(given[other], kinds[name]) for other, kind in kinds.items())


def _is_number(kind: Any) -> bool:
    """Whether a kind is that of numbers, or of numbers and ``None``."""
    return all(one in (*_NUMBERS, NoneType) for one in _choices(kind))


def _choices(kind: Any) -> tuple[Any, ...]:
    """The kinds of a union; otherwise the kind itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of a kind; kinds of which nothing is known take everything."""
    choices = _choices(kind)
    if len(choices) > 1:
        return any(_fits(value, choice) for choice in choices)
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if origin in (Any, object):
        return True
    if origin in _NUMBERS:
        number = plain(value)
        return isinstance(number, Real) and not _is_huge(number)
    if origin is bool:
        return isinstance(value, bool | np.bool_)
    if origin is str:
        return isinstance(value, str) and "\0" not in value  # which no name of a file can hold
    if origin is Tensor:
        return isinstance(value, Tensor) and not value.is_complex()
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype.kind != "c"
    if origin in (Path, os.PathLike):
        return isinstance(value, os.PathLike)
    if origin is Callable:
        return callable(value)
    if origin in (tuple, list, Sequence):
        return _is_sequence(value) and _fit_each(value, origin, inside)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, inside[0]) and _fits(item, inside[1]) for key, item in value.items()
        )
    if origin is Iterable:
        return isinstance(value, Iterable) and not isinstance(value, str | bytes) and not is_scalar(value)
    return not isinstance(origin, type) or getattr(origin, "_is_protocol", False) or isinstance(value, origin)


def _is_huge(number: Real) -> bool:
    """Whether a whole number is beyond torch's integers."""
    return isinstance(number, Integral) and abs(int(number)) > LARGEST


def _is_sequence(value: Any) -> bool:
    """Whether ``value`` has a length and numbered entries: a list, tuple, range, array or tensor."""
    numbered = isinstance(value, Collection) and hasattr(value, "__getitem__")
    return numbered and not isinstance(value, str | bytes | Mapping) and not is_scalar(value)


def _fit_each(values: Sequence[Any], origin: Any, inside: tuple[Any, ...]) -> bool:
    """Whether the entries fit; what range numbers are in is left to the target."""
    if origin is tuple and inside[-1] is not Ellipsis:
        return len(values) == len(inside) and all(map(_fits, values, inside))
    if _is_number(inside[0]) or inside[0] is bool:
        return getattr(values, "ndim", 1) == 1
    if isinstance(values, Tensor) and inside[0] is not Tensor:
        return False
    return all(_fits(value, inside[0]) for value in values)


def _called(kind: Any) -> str:
    """A kind in words."""
    choices = _choices(kind)
    if len(choices) > 1:
        return " or ".join(dict.fromkeys(_called(choice) for choice in choices))
    origin, inside = get_origin(kind) or kind, get_args(kind)
    words = {
        NoneType: "None",
        bool: "True or False",
        str: "a string",
        int: "a number",
        float: "a number",
        Path: "a path",
        os.PathLike: "a path",
        Callable: "callable",
        Iterable: "an iterable",
        Tensor: "a real torch Tensor",
        np.ndarray: "a real array of numpy",
        dict: "a mapping",
        Mapping: "a mapping",
    }
    if origin in words:
        return words[origin]
    if origin is tuple and inside[-1] is not Ellipsis:
        return f"({', '.join(_called(one) for one in inside)})"
    if origin in (tuple, list, Sequence):
        return f"a sequence, each {_called(inside[0])}"
    return f"a {origin.__module__.split('.')[0]} {origin.__name__}"
