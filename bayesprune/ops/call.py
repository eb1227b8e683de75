"""One call of a traced network, with all that the rule of its operation may ask."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.layers import Gate
from bayesprune.ops.features import Features, Step, barrier
from bayesprune.ops.ties import joined

Known = Mapping[fx.Node, Features | None]
WALL = "through which a removed structure cannot be followed"
ALSO = {"dim": "axis", "keepdim": "keepdims"}
"""What torch takes for the names of arguments as well, as NumPy has them."""
NEEDS_SHAPES = "pass example_input= (to BayesianNet, compact or check_gates), so that shapes are known"


@dataclass
class Following:
    """What one reading of a network follows, and what it has found so far.

    Attributes:
        off: For gates that have entries switched off, where, shape ``(size,)``, bool.
        only: The gates to follow, put off by other readings, with the rank of what they gate; ``None`` for those along
            the features of layers, and others as far as they are not in conflict. Those within equal parts of features
            come last, all together.
        put_off: The gates that are left to other readings, with the rank of what they gate.
        num_ids: How many physical entries have an id.
        ties: Pairs of ids that go together, found so far.
        moved: What running calls that move entries gave, see `ops.moving`; it is the same whatever is off.
        forms: The same by all that it depends on, whatever the call.
        waiting: Calls that are made with those that read them, see `ops.moving`; they are the same whatever is off.

    Examples:
        >>> following = Following(off={})
        >>> following.fresh(2).tolist(), following.fresh(1).tolist()
        ([0, 1], [2])
    """

    off: Mapping[Gate, Tensor]
    only: Mapping[Gate, int] | None = None
    put_off: dict[Gate, int] = field(default_factory=dict)
    num_ids: int = 0
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    moved: dict[Any, Any] = field(default_factory=dict)
    forms: dict[Any, Any] = field(default_factory=dict)
    waiting: set[fx.Node] = field(default_factory=set)

    _one: Tensor = field(default_factory=lambda: torch.arange(0))
    _joined: int = 0

    @property
    def parts(self) -> bool:
        """Whether entries within equal parts of what layers give are followed, those within heads say."""
        return bool(self.only) and all(gate.within for gate in self.only or ())

    @property
    def layers(self) -> bool:
        """Whether what layers give is followed."""
        return self.only is None or self.parts

    @property
    def one(self) -> Tensor:
        """For each id the smallest id that is tied to it so far, shape ``(num_ids,)``."""
        new = self.ties[self._joined :]
        if new or len(self._one) < self.num_ids:
            before = torch.cat([self._one, torch.arange(len(self._one), self.num_ids)])
            self._one = joined(self.num_ids, [(before[a], before[b]) for a, b in new])[before]
            self._joined = len(self.ties)
        return self._one

    def fresh(self, size: int) -> Tensor:
        """New ids for ``size`` physical entries."""
        self.num_ids += size
        return torch.arange(self.num_ids - size, self.num_ids)


@dataclass(frozen=True)
class Call:
    """One call, what is known of its inputs, and what is followed.

    Attributes:
        node: The call.
        modules: The modules that the calls of the network call, as far as they call one.
        known: What is known of its inputs.
        shapes: The shapes of tensors for one example, as far as known.
        following: What is followed.
        several: Gives the shapes of tensors for several examples, none if it cannot; ``None`` without an example.
        written: The calls of the network whose numbers are data of a ``torch.fx.GraphModule``, and may be rewritten.
        constants: Tensors of whole numbers, and single numbers, that are the same in every pass.

    Examples:
        >>> graph = fx.Graph()
        >>> relu = graph.call_function(torch.relu, (graph.placeholder("x"),))
        >>> call = Call(relu, {}, {}, {}, Following(off={}))
        >>> call.name, call.run({call.source: torch.tensor([-1.0, 2.0])}).tolist()
        ('relu', [0.0, 2.0])
    """

    node: fx.Node
    modules: Mapping[fx.Node, nn.Module]
    known: Known
    shapes: Mapping[fx.Node, torch.Size]
    following: Following
    several: Callable[[], Mapping[fx.Node, torch.Size]] | None = None
    written: Container[fx.Node] = ()
    constants: Mapping[fx.Node, Tensor] = field(default_factory=dict)

    @property
    def module(self) -> Any:
        """The module that it calls, if it calls one."""
        return self.modules.get(self.node)

    @property
    def name(self) -> str:
        """How the user wrote it: the name of a function or method, or where the module is."""
        return name_of(self.node)

    @property
    def source(self) -> fx.Node:
        """Its first tensor."""
        return self.node.all_input_nodes[0]

    @property
    def x(self) -> Features:
        """What is known of its first tensor, where something is."""
        x = self.known[self.source]
        assert x is not None
        return x

    def rank(self, node: fx.Node) -> int | None:
        """The number of dimensions of what ``node`` gives, if known."""
        return len(self.shapes[node]) if node in self.shapes else None

    def option(self, name: str, place: int, default: Any = None) -> Any:
        """An argument besides the first tensor: an attribute of the module, or given by name or by place.

        Args:
            name: Its name.
            place: Its place among the arguments of the function or method, whose first is 0.
            default: What it is if it is not given.
        """
        return getattr(self.module, name) if self.module is not None else argument(self.node, name, place, default)

    def run(self, values: Mapping[fx.Node, Any]) -> Any:
        """What the operation gives.

        Args:
            values: What its tensors are.
        """
        return compute(self.node, self.modules, values.__getitem__)

    def wall(self, reason: str = "", because: str = WALL) -> Step:
        """Nothing can be followed through it: every entry of its inputs stays.

        Args:
            reason: Why, in words that complete "what it gates ...".
            because: Without a reason, why what reaches it cannot be followed.
        """
        kind = "" if self.module is None else f", a {type(self.module).__name__}"
        return barrier(self.node, reason or f"reaches {self.name}{kind}, {because}")


def compute(
    node: fx.Node,
    modules: Mapping[fx.Node, nn.Module],
    value: Callable[[fx.Node], Any],
    given: tuple[Any, ...] | None = None,
) -> Any:
    """What a call gives.

    Args:
        node: The call.
        modules: The modules that calls of the network call.
        value: Gives the value of each of the nodes that it reads.
        given: Its positional arguments, if they are not those of the node.
    """
    args = fx.node.map_arg(node.args if given is None else given, value)
    kwargs = fx.node.map_arg(node.kwargs, value)
    module = modules.get(node)
    return apply(node, args, kwargs) if module is None else module.forward(*args, **kwargs)


def apply(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a function or method gives for these arguments.

    Args:
        node: The node that calls it.
        args: Positional arguments; the first one is the object of a method.
        kwargs: Arguments by name.
    """
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def name_of(node: fx.Node) -> str:
    """How the user wrote an operation."""
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def argument(node: fx.Node, name: str, place: int, default: Any = None) -> Any:
    """An argument of a function or method of one tensor.

    Args:
        node: The call.
        name: The argument's name.
        place: Its place among all arguments.
        default: What it is if it is not given.
    """
    given = node.kwargs.get(name, node.args[place] if len(node.args) > place else default)
    return node.kwargs.get(ALSO.get(name, name), given)


def tensors_read(
    node: fx.Node, known: Known, shapes: Mapping[fx.Node, torch.Size], waiting: Container[fx.Node]
) -> list[fx.Node]:
    """The tensors that a call depends on: its arguments, those whose sizes it is given, and those it gets parts of.

    Args:
        node: The call.
        known: What is known of them.
        shapes: The shapes of all tensors.
        waiting: Calls that are made with it.
    """
    found: dict[fx.Node, None] = {}
    left = list(reversed(node.all_input_nodes))
    while left:
        source = left.pop()
        if (source in shapes and source not in waiting) or known[source] is not None:
            found[source] = None
        elif source in waiting or source.op != "call_module":  # a module may give several tensors of its own
            left += reversed(source.all_input_nodes)
    return list(found)
