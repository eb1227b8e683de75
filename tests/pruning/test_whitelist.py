"""What model files may name follows from the operations' records, and stays readable."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune import layers
from bayesprune.ops import OPERATIONS, Operation, operation_of
from bayesprune.ops.__main__ import page
from bayesprune.ops.names import by_name
from bayesprune.pruning.arithmetic import OPERANDS, _given
from bayesprune.pruning.whitelist import ATTRIBUTES, CLASSES, FUNCTION_NAMES, FUNCTIONS, METHODS, MODULES

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
FORMAT_1 = Path(__file__).with_name("format_1.txt").read_text().split("\n\n")
"""Layers with their arguments, functions, methods and attributes that files had when their format was made."""


def test_the_page_is_made_of_the_records() -> None:
    assert PAGE.read_text() == page(), "run: python -m bayesprune.ops > docs/operations.md"


def signatures() -> Iterator[tuple[str, set[str]]]:
    for line in FORMAT_1[0].splitlines():
        name, _, arguments = line.removesuffix(")").partition("(")
        yield name, set(filter(None, arguments.split(", ")))


@pytest.mark.parametrize(("name", "arguments"), [*signatures()])
def test_layers_of_files_stay_readable(name: str, arguments: set[str]) -> None:
    cls = CLASSES[name]
    assert cls is getattr(nn, name) and set(MODULES[cls]) == arguments


def test_names_in_files_stay_readable() -> None:
    functions, methods, attributes = (set(names.split()) for names in FORMAT_1[1:])
    assert functions <= FUNCTIONS.keys() and methods <= METHODS and attributes == ATTRIBUTES.keys()


def test_names_mean_what_they_say() -> None:
    owners = {"operator": operator, "functional": F, "torch": torch}
    for name, function in FUNCTIONS.items():
        owner, _, last = name.rpartition(".")
        assert function in (getattr, len) if not owner else getattr(owners[owner], last) is function
    assert all(FUNCTIONS[name] is function for function, name in FUNCTION_NAMES.items())
    assert all(callable(getattr(torch.Tensor, name)) for name in METHODS)


def test_only_records_that_say_so_are_in_files() -> None:
    """A new record gives files nothing: neither its functions and methods, nor layers that are not torch's own."""
    record = Operation(name="new", functions=(torch.load,), methods=("backward",), modules=(nn.Module,))
    assert not record.files and record.arguments is None
    held = [operation for operation in OPERATIONS if operation.files]
    assert {id(f) for f in FUNCTIONS.values()} == {id(f) for o in held for f in o.all_functions}
    assert {name for operation in held for name in operation.all_methods} == METHODS
    assert operation_of(layers.Linear(2, 2)).arguments == operation_of(nn.Linear(2, 2)).arguments
    assert not {layers.Linear, layers.Conv2d, layers.NormalLinear, layers.Gate} & MODULES.keys()
    assert CLASSES["Linear"] is nn.Linear


def test_what_reads_or_writes_elsewhere_is_not_in_files() -> None:
    """No record names what opens files, runs code, draws numbers that are set by a seed, or gives away storage."""
    forbidden = "load save from_file compile jit manual_seed set_default_device as_tensor frombuffer empty rand randn"
    methods = "register_hook backward data_ptr numpy tolist item set_ share_memory_ requires_grad_ apply_ map_ resize_"
    assert not {f"torch.{name}" for name in forbidden.split()} & FUNCTIONS.keys()
    assert not set(methods.split()) & METHODS
    assert not {"eval", "exec", "open", "__import__", "setattr", "vars"} & FUNCTIONS.keys()


def test_names_of_a_function() -> None:
    assert list(by_name([torch.conv1d])) == ["functional.conv1d", "torch.conv1d"]
    assert by_name([getattr, operator.add]) == {"getattr": getattr, "operator.add": operator.add}


ARGUMENTS: list[tuple[object, ...]] = [
    (), (0,), (1,), (2, 0), (0, 1), (0, 0, 1), (None, 0), (torch.ones(4, 4),), (torch.ones(4, 4), torch.ones(4, 4)),
    (2, 1, 0, 1, False, True), (2, 2, 0, 1, False, False), (2, True), (torch.tensor(0), 1.0), (0, torch.tensor([0])),
    (torch.ones(1, 1, 2, 2),), ("shape",), ("ndim",), ("dtype",), ("mT",), (slice(2),),
]  # fmt: skip
TENSORS = [torch.ones(4, 4), torch.ones(1, 1, 4, 4), torch.ones(1, 4, 4), torch.ones(3), torch.zeros(2, 2).bool()]


def kind_of(value: object) -> object:
    """What kind of value ``check_arithmetic`` should take this for."""
    if isinstance(value, (tuple, list)):
        return [kind_of(value[0])]
    return "tensor" if isinstance(value, torch.Tensor) else "number" if isinstance(value, (int, float)) else None


@pytest.mark.filterwarnings("ignore")
def test_records_say_what_kind_of_value_calls_give() -> None:
    """A tuple that is taken for a tensor could be multiplied by a million."""
    several, seen = set(), set()
    for target in [*{id(f): f for f in FUNCTIONS.values()}.values(), *METHODS]:
        if target in OPERANDS:
            continue
        for x in TENSORS:
            for args in ARGUMENTS:
                try:
                    call = getattr(x.clone(), target) if isinstance(target, str) else partial(target, x.clone())
                    value = call(*args)
                except Exception:
                    continue
                graph = fx.Graph()
                source = graph.placeholder("x")
                kind = graph.call_method if isinstance(target, str) else graph.call_function
                given = [graph.placeholder(f"y{i}") if isinstance(a, torch.Tensor) else a for i, a in enumerate(args)]
                found = _given(kind(target, (source, *given)), {}, dict.fromkeys(graph.nodes, "tensor"))
                cautious = found == ["tensor"] and kind_of(value) == "tensor"  # no arithmetic is allowed on it
                assert cautious or found == kind_of(value), (target, x.shape, args)
                seen.add(target)
                several |= {target} if isinstance(found, list) else set()
    assert several >= {"chunk", "size", "topk", torch.split, torch.sort, torch.max, F.max_pool2d, getattr, "unbind"}
    assert len(seen) > 250
