"""The record that the library has of an operation, and where to find it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, fx, nn

from bayesprune.ops.call import WALL, Call
from bayesprune.ops.features import Step

Takes = Literal["tensor", "sizes", "anything"]
Kind = Literal[
    "sum",
    "difference",
    "product",
    "normalisation",
    "extremum",
    "product of matrices",
    "attention",
    "softmax",
    "filling",
    "format",
    "",
]
Memory = Literal["own", "view", ""]
Role = Literal["in", "out", "place", None]
Gives = Any
"""``"tensor"`` or ``"number"``; a list with the kind of each of its items, or a tuple of kinds; or a function that says
so of a call and the module that it calls."""


@dataclass(frozen=True)
class Parts:
    """Which parts of a module run along its inputs (``"in"``) and its outputs (``"out"``).

    A module is cut, counted and measured by them. What runs along the places within its groups (``"place"``) is cut as
    its record says.

    Attributes:
        tensors: By attribute name of a parameter or buffer, what its leading dimensions run along; ``None`` for
            something else. A dimension may hold all of them several times, one after another.
        sizes: Attributes that hold the number of inputs or outputs, by name.

    Examples:
        >>> Parts({"weight": ("out", "in"), "bias": ("out",)}, {"in_features": "in", "out_features": "out"}).dense
        True
    """

    tensors: Mapping[str, tuple[Role, ...]]
    sizes: Mapping[str, Role]

    @property
    def dense(self) -> bool:
        """Whether every output is made of every input."""
        return any({"in", "out"} <= set(roles) for roles in self.tensors.values())


def never(module: Any) -> bool:
    """That a module does not draw, whatever it is."""
    return False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """All that the library knows of one operation. Whoever adds one writes such a record, and nothing else.

    Attributes:
        name: What it is called in the documentation.
        modules: Classes of modules that compute it; subclasses are other operations.
        functions: Functions that do.
        methods: Names of methods of tensors that do.
        foreign: Full names of classes and functions of other libraries that do, which need not be installed.
        inplace: Functions and methods that write its result over their first argument, by those that do not.
        entries: What a call does to the entries of its inputs; ``None``, or if it gives ``None``: nothing can be said,
            and every entry before it stays.
        wall: Why, where that is so.
        takes: What it can follow: one tensor with known features, and numbers (``"tensor"``); also sizes that are read
            of tensors (``"sizes"``); or ``"anything"``, in which case ``entries`` sees every call of it.
        parts: Of a module, what surgery cuts and what is counted.
        fold: Adds what constant inputs contribute to a module's bias, given their values (0 where there is none), and
            gives the names of the attributes that changed; ``None`` if constants cannot go.
        cut: What else of a module changes with its parts, given which inputs and outputs stay, bool; called first. It
            gives what stays in other roles.
        kind: For those operations that need a special case somewhere, which.
        moves: Whether it only moves and copies entries, whatever they are, so that it may be run on their numbers.
        sizes: Which arguments of its functions and methods are sizes or places, which other numbers may take.
        pointwise: Whether, in eval mode, each entry of its value follows from that entry of its only tensor.
        linear: Whether it is a layer whose outputs are weighted sums of the entries of its input.
        memory: Whether its result lies in memory of its own, or may be its input, or part of it (``"view"``).
        random: Of a module, whether it draws random numbers in training mode, see `draws`.
        gives: What kind of value a call gives, where that is not computed from kinds of its arguments.
        arguments: Constructor arguments of its modules that a model file holds, and the attribute that has the value of
            each; names alone where they are the same. ``None``: model files, which may be forged, cannot hold them.
        files: Whether model files may hold its functions and methods: only what computes tensors from its arguments,
            and neither reads nor writes anything else.

    Examples:
        >>> from bayesprune.ops import operation_of
        >>> operation_of(nn.ReLU()).name
        'relu'
    """

    name: str
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    inplace: Mapping[Callable[..., Any] | str, Callable[..., Any] | str] = field(default_factory=dict)
    entries: Callable[[Call], Step | None] | None = None
    wall: str = WALL
    takes: Takes = "tensor"
    parts: Callable[[Any], Parts] | None = None
    fold: Callable[[Any, Tensor], list[str]] | None = None
    cut: Callable[[Any, Tensor, Tensor], Mapping[Role, Tensor]] | None = None
    kind: Kind = ""
    moves: bool = False
    sizes: slice | None = None
    pointwise: bool = False
    linear: bool = False
    memory: Memory = ""
    random: Callable[[Any], bool] = never
    gives: Gives = "tensor"
    arguments: tuple[str, ...] | Mapping[str, str] | None = None
    files: bool = False

    @property
    def all_functions(self) -> tuple[Callable[..., Any], ...]:
        """Its functions, and those that write over their first argument."""
        return (*self.functions, *(target for target in self.inplace if not isinstance(target, str)))

    @property
    def all_methods(self) -> tuple[str, ...]:
        """Its methods, and those that write over their tensor."""
        return (*self.methods, *(target for target in self.inplace if isinstance(target, str)))

    @property
    def adds(self) -> bool:
        """Whether it is a sum, or a difference, of two terms."""
        return self.kind in ("sum", "difference")


OPERATIONS: list[Operation] = []
_BY_TARGET: dict[object, Operation] = {}
UNKNOWN = Operation(name="")


def register(operation: Operation) -> Operation:
    """Add a record.

    Args:
        operation: The record. Nothing that it names may have one yet.

    Returns:
        The record itself.
    """
    targets = (*operation.modules, *operation.functions, *operation.inplace, *operation.methods, *operation.foreign)
    for target in targets:
        assert target not in _BY_TARGET, f"{target} has two records: {_BY_TARGET[target].name}, {operation.name}"
        _BY_TARGET[target] = operation
    OPERATIONS.append(operation)
    return operation


def operation_of(called: fx.Node | nn.Module | None, module: nn.Module | None = None) -> Operation:
    """The record of what a node or a module computes; one that says nothing if there is none.

    Args:
        called: A call of a traced network, or a module.
        module: The module that ``called`` calls, if it is a node that calls one.
    """
    if isinstance(called, fx.Node):
        if called.op in ("call_function", "call_method"):
            return operation_at(called.target)
        called = module
    return operation_at(type(called))


def operation_at(target: Any) -> Operation:
    """The record of a class, a function or the name of a method, or of one that has its full name."""
    found = _BY_TARGET.get(target)
    if found is None and not isinstance(target, str):
        place = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
        found = _BY_TARGET.get(place)
    return UNKNOWN if found is None else found


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training mode; a subclass is taken for what it extends."""
    return any(operation_at(kind).random(module) for kind in type(module).__mro__)
