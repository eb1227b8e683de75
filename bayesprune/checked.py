"""What users pass, for refusals in one line: numbers within bounds, values in few words, names that nearly are one."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Sized
from numbers import Integral, Real
from typing import Any

from bayesprune.errors import ConfigError

LARGEST = 2**63 - 1
"""The largest number that a torch integer can be."""
_LONGEST = 60


def whole(name: str, value: Any, low: int = 1, high: int | None = None, *, hint: str = "") -> int:
    """``value`` as an int.

    Numpy's integers, and arrays and tensors without dimensions that hold one, are whole numbers; booleans and floats
    are not.

    Args:
        name: What is called so, for the message: ``"fit: epochs"``.
        value: What the user gave.
        low: The smallest number that is taken.
        high: The largest one; ``None`` for no bound but that of torch's integers.
        hint: What to try, for the message.

    Raises:
        ConfigError: for anything else.
    """
    number = plain(value)
    if isinstance(number, Integral) and low <= int(number) <= (LARGEST if high is None else high):
        return int(number)
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    raise _refusal(name, f"a whole number, {bounds}", value, hint)


def real(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: str = "()", *, hint: str = ""
) -> float:
    """``value`` as a float.

    Args:
        name: What is called so, for the message: ``"Settings: lr"``.
        value: What the user gave; numbers, and arrays and tensors without dimensions that hold one.
        low: Lower end of the interval.
        high: Upper end of the interval.
        ends: Which ends belong to it: ``"()"``, ``"[]"``, ``"[)"`` or ``"(]"``.
        hint: What to try, for the message.

    Raises:
        ConfigError: for anything else, infinity and NaN (but an end that belongs to the interval) included.
    """
    number = plain(value)
    found = float(number) if isinstance(number, Real) and not _huge(number) else math.nan
    above = found >= low if ends[0] == "[" else found > low
    below = found <= high if ends[1] == "]" else found < high
    if above and below:
        return found
    interval = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
    if math.isinf(high) and ends[1] == ")":
        named = {(0.0, "("): "positive and finite", (0.0, "["): "finite and not negative", (-math.inf, "("): "finite"}
        interval = named.get((low, ends[0]), interval)
    raise _refusal(name, interval, value, hint)


def shown(value: Any) -> str:
    """A value in few words, on one line, for a message."""
    if getattr(value, "ndim", 0) and hasattr(value, "dtype"):
        return f"a {type(value).__name__} of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, int) and abs(value) >= 10**50:
        return "a number of more than 50 digits"
    short = not isinstance(value, Sized) or is_scalar(value) or len(value) <= _LONGEST
    text = " ".join(repr(value).split()) if short else ""
    return text if 0 < len(text) <= _LONGEST else f"a {type(value).__name__}"


def meant(name: Any, known: Iterable[str]) -> str:
    """Which name may have been meant by one that is unknown, for a message: a guess in brackets, or nothing.

    Args:
        name: What the user wrote.
        known: The names that there are.

    Examples:
        >>> meant("possion", ["gaussian", "poisson"])
        " (did you mean 'poisson'?)"
    """
    written = {each.lower(): each for each in known}
    guess = difflib.get_close_matches(str(name).lower(), written, n=1, cutoff=0.7)
    return f" (did you mean {written[guess[0]]!r}?)" if guess else ""


def is_scalar(value: Any) -> bool:
    """Whether ``value`` is an array or tensor without dimensions, which has no length."""
    return getattr(value, "ndim", None) == 0


def plain(value: Any) -> Any:
    """What an array or tensor without dimensions holds; a boolean is no number."""
    if is_scalar(value) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, bool) else value


def _huge(number: Real) -> bool:
    """Whether a whole number has no float."""
    return isinstance(number, Integral) and abs(int(number)) > sys.float_info.max


def _refusal(name: str, expected: str, value: Any, hint: str) -> ConfigError:
    return ConfigError(f"{name} must be {expected}, got {shown(value)}" + (f"; {hint}" if hint else ""))
