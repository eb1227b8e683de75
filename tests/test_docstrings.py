"""Docstrings say what there is to say: arguments, an example for every public class; and the examples are true."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import bayesprune

ELSEWHERE = {"bayesprune.cli.commands", "bayesprune.cli.config.RunConfig"}
"""Whose arguments are said by the help of each option."""
MODULES = [name for _, name, _ in pkgutil.walk_packages(bayesprune.__path__, "bayesprune.") if "__main__" not in name]
ROOMS = sorted({name.split(".")[1] for name in MODULES})


def defined(module: str) -> dict[str, Any]:
    """The functions and classes that a module defines, by name with the module."""
    found = vars(importlib.import_module(module))
    own = {name: value for name, value in found.items() if getattr(value, "__module__", None) == module}
    return {
        f"{module}.{name}": value for name, value in own.items() if inspect.isfunction(value) or isinstance(value, type)
    }


def methods(owner: type) -> Iterator[tuple[str, Any]]:
    """The public methods that a class has and none of its bases, which would say what their arguments are."""
    for name, value in vars(owner).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        inherited = any(hasattr(base, name) for base in owner.__mro__[1:])
        if inspect.isfunction(function) and not name.startswith("_") and not inherited:
            yield name, function


def callables(module: str) -> Iterator[tuple[str, Any, str]]:
    """Name, callable and docstring of all that is called: functions, methods, and what makes an object."""
    for name, value in defined(module).items():
        if name.rpartition(".")[2].startswith("_"):
            continue
        if not isinstance(value, type):
            yield name, value, value.__doc__ or ""
            continue
        if "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
            yield name, vars(value)["__init__"], value.__doc__ or ""
        yield from ((f"{name}.{method}", function, function.__doc__ or "") for method, function in methods(value))


def arguments(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


@pytest.mark.parametrize("module", MODULES)
def test_two_arguments_or_more_are_explained(module: str) -> None:
    unsaid = [
        name
        for name, function, text in callables(module)
        if len(arguments(function)) > 1 and "Args:" not in text and "Attributes:" not in text
    ]
    assert [name for name in unsaid if not {name, module} & ELSEWHERE] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_class_has_an_example(room: str) -> None:
    public = importlib.import_module(f"bayesprune.{room}")
    classes = [getattr(public, name) for name in getattr(public, "__all__", ())]
    without = [value for value in classes if isinstance(value, type) and ">>>" not in (value.__doc__ or "")]
    assert [value.__name__ for value in without] == []


def examples() -> dict[str, doctest.DocTest]:
    """All examples in docstrings, by name of the object."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {}
    for module in MODULES:
        names = vars(importlib.import_module(module))
        for name, value in defined(module).items():
            tests = finder.find(value, name, module=False, globs=dict(names))  # type: ignore[arg-type]
            found |= {test.name: test for test in tests if test.examples}
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_true(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(EXAMPLES[name], clear_globs=True)
    assert tried > 0 and failed == 0, capsys.readouterr().out
