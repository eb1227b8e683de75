"""What plain data read from a file must look like, said as a table, and where they do not.

A check is a function of a value and of where it stands; it raises `Mismatch`. Checks walk only what the table names, so
they end quickly whatever they are given.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from reprlib import Repr
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

Check = Callable[[object, str], None]

_brief = Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 40


class Mismatch(ValueError):
    """A value that is not as its table says: where it stands, what was expected, what was found.

    Args:
        where: Where the value stands; empty for the whole.
        expected: What its table says.
        value: What was found.
    """

    def __init__(self, where: str, expected: str, value: object):
        super().__init__(f"{where or 'the whole'}: expected {expected}, found {brief(value)}")


def brief(value: object) -> str:
    """A value in few characters, however large and deep it is."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping) and not value:
        return "an empty table"
    return _brief.repr(value)


def require(right: bool, where: str, expected: str, value: object) -> None:
    """Raise `Mismatch` unless ``right``.

    Args:
        right: Whether the value is as it must be.
        where: Where it stands.
        expected: What its table says.
        value: What was found.
    """
    if not right:
        raise Mismatch(where, expected, value)


def whole(low: int = 0, high: int = 2**53) -> Check:
    """A whole number between ``low`` and ``high``, both included; truth values are none.

    Args:
        low: The least.
        high: The largest.
    """

    def check(value: object, where: str) -> None:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        require(right, where, f"a whole number from {low} to {high}", value)

    return check


def number(low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> Check:
    """A number between ``low`` and ``high``, both included; without ``finite`` NaN and infinities as well.

    Args:
        low: The least.
        high: The largest.
        finite: Whether NaN and infinities are refused.
    """
    limits = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
    expected = f"a {'finite ' * finite}number{limits}"

    def check(value: object, where: str) -> None:
        require(isinstance(value, (int, float)) and not isinstance(value, bool), where, expected, value)
        assert isinstance(value, (int, float))
        if finite or not (value != value or value in (math.inf, -math.inf)):
            # Compared before it is converted, since whole numbers may be too large for that.
            require(low <= value <= high and abs(value) < 2**1000, where, expected, value)

    return check


def text(value: object, where: str) -> None:
    """A text.

    Args:
        value: Any value.
        where: Where it stands.
    """
    require(type(value) is str, where, "a text", value)


def truth(value: object, where: str) -> None:
    """True or false.

    Args:
        value: Any value.
        where: Where it stands.
    """
    require(type(value) is bool, where, "true or false", value)


def optional(check: Check) -> Check:
    """``None``, or what ``check`` takes."""
    return lambda value, where: None if value is None else check(value, where)


def items(check: Check, least: int = 0, most: int | None = None) -> Check:
    """A list or tuple of between ``least`` and ``most`` values.

    Args:
        check: What each of them must be.
        least: How many there are at least.
        most: How many at most; ``None`` for any number.
    """
    count = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"

    def check_all(value: object, where: str) -> None:
        right = isinstance(value, (list, tuple)) and least <= len(value) <= (len(value) if most is None else most)
        require(right, where, f"a list of {count} values", value)
        assert isinstance(value, (list, tuple))
        for place, item in enumerate(value):
            check(item, f"{where}[{place}]")

    return check_all


def table(check: Check) -> Check:
    """A table of texts to what ``check`` takes."""

    def check_all(value: object, where: str) -> None:
        require(isinstance(value, Mapping) and all(type(key) is str for key in value), where, "a table", value)
        assert isinstance(value, Mapping)
        for key, item in value.items():
            check(item, _inside(where, key))

    return check_all


def record(required: Mapping[str, Check], extra: Mapping[str, Check] | None = None) -> Check:
    """A table that has at least the keys of ``required``, and maybe those of ``extra``; other keys are passed over.

    Args:
        required: By key that must be there, what its value must be.
        extra: By key that may be missing, what its value must be.
    """
    extra = extra or {}

    def check_all(value: object, where: str) -> None:
        require(isinstance(value, Mapping), where, f"a table with the keys {', '.join(required)}", value)
        assert isinstance(value, Mapping)
        for key in required:
            if key not in value:
                raise Mismatch(_inside(where, key), "a value", None)
        for key, check in (*required.items(), *extra.items()):
            if key in value:
                check(value[key], _inside(where, key))

    return check_all


def dataclass_record(cls: type) -> Check:
    """A table of the fields of a dataclass of plain values, and of no others; those with a default may be missing.

    A field ``Annotated[type, check]`` is what the check takes.
    """
    hints = get_type_hints(cls, include_extras=True)
    checks = {field.name: _of_type(hints[field.name]) for field in fields(cls)}
    required = {field.name: checks[field.name] for field in fields(cls) if field.default is MISSING}
    check_known = record(required, checks)

    def check(value: object, where: str) -> None:
        check_known(value, where)
        assert isinstance(value, Mapping)
        for key in value:
            require(key in checks, where, f"only the keys {', '.join(checks)}", key)

    return check


def _of_type(hint: Any) -> Check:
    if get_origin(hint) is Annotated:
        check: Check = hint.__metadata__[0]
        return check
    if isinstance(hint, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not types.NoneType)
        return optional(_of_type(inner))
    assert isinstance(hint, type)
    return {int: whole(high=2**64 - 1), float: number(finite=False), str: text, bool: truth}[hint]


def tensor(dtypes: Iterable[torch.dtype] | None = None, dim: int | None = None, *, finite: bool = False) -> Check:
    """A dense tensor on the CPU that is not larger than the memory it was read into.

    Args:
        dtypes: Types of entries; ``None`` for any.
        dim: Number of dimensions; ``None`` for any.
        finite: Whether NaN and infinities are refused.
    """
    known = None if dtypes is None else tuple(dtypes)
    names = "" if known is None else f" of {' or '.join(str(t).removeprefix('torch.') for t in known)}"
    expected = f"a tensor{names}{'' if dim is None else f' with {dim} dimensions'}"

    def check(value: object, where: str) -> None:
        require(isinstance(value, Tensor), where, expected, value)
        assert isinstance(value, Tensor)
        dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        require(dense, where, "a dense tensor on the CPU", value)
        held = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        require(held, where, "a tensor with memory for each of its entries", value)
        require(known is None or value.dtype in known, where, expected, value)
        require(dim is None or value.dim() == dim, where, expected, value)
        require(not finite or bool(value.isfinite().all()), where, "finite entries", value)

    return check


def shaped(values: Mapping[str, Tensor]) -> Check:
    """A table of tensors with the names, shapes and types of these."""

    def check_all(value: object, where: str) -> None:
        table(tensor())(value, where)
        assert isinstance(value, Mapping)
        require(value.keys() == values.keys(), where, f"the names {brief(sorted(values))}", sorted(value))
        for name, mine in values.items():
            alike = value[name].shape == mine.shape and value[name].dtype == mine.dtype
            require(alike, _inside(where, name), brief(mine), value[name])

    return check_all


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def generator_state(value: object, where: str) -> None:
    """The state of a generator of torch's random numbers; one of another device is looked at only in size.

    Args:
        value: Any value.
        where: Where it stands.
    """
    expected = "the state of a generator of random numbers"
    tensor((torch.uint8,), 1)(value, where)
    assert isinstance(value, Tensor)
    if len(value) != len(torch.get_rng_state()):
        require(len(value) == 16, where, expected, value)
        return
    try:
        torch.Generator().set_state(value.clone())
    except RuntimeError as error:
        raise Mismatch(where, expected, value) from error
