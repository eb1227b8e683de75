"""A trace of a model for examples of one shape: what its forward pass decides by sizes is decided as for them.

Beside every value of the graph stands what it is for two and for three copies of an example. Python then gets numbers
where it asks for some: conditions, loops and unpacking go by sizes, and so do tensors that are made of sizes. What
follows from the number of examples, or from what tensors hold, is never taken for a number.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs
from bayesprune.errors import TraceError
from bayesprune.graph.shapes import copies_of, does_not_go
from bayesprune.graph.tracer import GateTracer, Value
from bayesprune.graph.tracing import line_of
from bayesprune.ops.registry import UNKNOWN, operation_at

COPIES = 2, 3
"""Numbers of examples: what differs between them follows from the number of examples."""
PICKS = operator.getitem, getattr, len, "size", "dim", "ndimension", "numel", "stride"
"""What reads sizes, or picks from what it is given: it follows from the number of examples if it differs with it."""
SETTINGS = torch.device, torch.dtype, torch.layout, bool
"""Kinds of attributes of tensors that are the same for all examples of one kind, and no values of a graph."""


class Seen(NamedTuple):
    """What a value of the graph is.

    Attributes:
        values: For each number of copies.
        loose: Whether it is no tensor, and follows from the number of examples or from what tensors hold.
        made: Whether it is a tensor that is made of sizes alone.
    """

    values: tuple[Any, ...]
    loose: bool = False
    made: bool = False


class Known(Value):
    """A value of a traced forward pass that is also known for some examples, if there is an example."""

    seen: Seen | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.seen.values[0], name, None) if self.seen else None
        if found is None or callable(found):
            return super().__getattr__(name)
        if isinstance(found, SETTINGS) or name == "ndim":
            return found
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def plain(self, what: str) -> Any:
        """What it is, for Python to go by.

        Args:
            what: What Python needs, for messages.
        """
        if self.seen is None or self.seen.loose or _holds_tensors(self.seen.values[0]):
            raise fx.proxy.TraceError(f"{what} follows from what tensors hold, or from the number of examples")
        return self.seen.values[0]

    def __index__(self) -> int:
        return operator.index(self.plain("a number"))

    def __float__(self) -> float:
        return float(self.plain("a number"))

    def __len__(self) -> int:
        lengths = {len(value) for value in self.seen.values} if self.seen else set()
        if len(lengths) != 1:
            raise fx.proxy.TraceError("a length is not known, or follows from the number of examples")
        return lengths.pop()

    def __iter__(self) -> Iterator[Any]:
        if self.seen is None:
            return super().__iter__()
        return iter([self[place] for place in range(len(self))])  # type: ignore[index]


class Follower(GateTracer):
    """Traces a model in eval mode for examples of one shape; a module that it cannot follow becomes one call.

    Arguments of the forward pass that the example does not give are what they are by default.

    Args:
        example: Inputs; ``None`` to follow without.

    Attributes:
        whole: By name of a module that could not be followed, why.
    """

    def __init__(self, example: Inputs | None):
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.example, self.whole = example, dict[str, str]()
        self._numbers: set[fx.Node] = set()
        self._attributes: dict[str, Any] = {}

    def trace(self, root: Any, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph of a model's forward pass."""
        example = None if isinstance(root, fx.GraphModule) else self.example
        self._given = [] if example is None else [copies_of(root, example, count) for count in COPIES]
        self.proxy_buffer_attributes = bool(self._given)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            graph = super().trace(root, *args, **kwargs)
        for node in reversed(graph.nodes):
            if node in self._numbers and not node.users:
                graph.erase_node(node)
        return graph

    def create_args_for_root(self, root_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """The forward pass, and what stands for those of its inputs that the example gives.

        Args:
            root_fn: The forward pass.
            args: As for ``torch.fx.Tracer``.
            kwargs: As for ``torch.fx.Tracer``.
        """
        if not self._given:
            return super().create_args_for_root(root_fn, *args, **kwargs)
        signature = inspect.signature(root_fn)
        calls = [((x,), {}) if isinstance(x, Tensor) else (x.args, x.kwargs) for x in self._given]
        given = [signature.bind(self.root, *args, **kwargs) for args, kwargs in calls]
        places: list[Known] = []

        def placed(name: str, *values: Any) -> Any:
            if isinstance(values[0], tuple):
                return tuple(placed(f"{name}_{i}", *each) for i, each in enumerate(zip(*values, strict=True)))
            if isinstance(values[0], dict):
                return {key: placed(key, *(value[key] for value in values)) for key in values[0]}
            place = self.create_proxy("placeholder", name, (), {})
            place.seen = Seen(values)
            places.append(place)
            return place

        bound = given[0]
        for name in list(bound.arguments)[1:]:
            bound.arguments[name] = placed(name, *(each.arguments[name] for each in given))
        return (lambda *_: root_fn(*bound.args, **bound.kwargs)), [self.root, *places]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of ``node`` in the forward pass."""
        return Known(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """What a condition is."""
        return bool(obj.plain("a condition")) if isinstance(obj, Known) and obj.seen else super().to_bool(obj)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        """What stands for the value of a call.

        Args:
            kind: What kind of call it is, as torch.fx calls it.
            target: What is called.
            args: Arguments by place.
            kwargs: Arguments by name.
            rest: As for ``torch.fx.Tracer``.
            named: As for ``torch.fx.Tracer``.
        """
        if kind == "call_method" and str(target).startswith("__") and hasattr(operator, target):
            kind, target = "call_function", getattr(operator, target)  # of a tensor that was made, & and the like
        if kind == "call_method" and target == "type" and (len(args) > 1 or kwargs):
            target = "to"
        seen = self._seen(kind, target, args, kwargs) if self._given and kind != "placeholder" else None
        if seen is not None and target is torch._assert:
            return None  # it holds
        if seen is not None and kind == "call_function" and isinstance(seen.values[0], Tensor) and seen.made:
            return seen.values[0]
        if seen is not None and kind == "call_method" and target == "to":
            if all(new is old for new, old in zip(seen.values, args[0].seen.values, strict=True)):
                return args[0]
            args = tuple(arg for arg in args if not isinstance(arg, torch.device))
            kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        if seen is not None and isinstance(kwargs.get("device"), torch.device):
            kwargs = {**kwargs, "device": self._device()}
        if seen is not None and _holds_tensors(seen.values[0]) and not _reads_sizes(kind, target):
            args, kwargs = fx.node.map_aggregate((args, kwargs), _number)
        proxy: Any = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if seen is not None:
            proxy.seen = seen
            if not _holds_tensors(seen.values[0]):
                self._numbers.add(proxy.node)
        return None if seen is not None and seen.values[0] is None else proxy

    def _device(self) -> fx.Proxy:
        """Where the first input lies, in every pass."""
        first = next(node for node in self.graph.nodes if node.op == "placeholder")
        return super().create_proxy("call_function", getattr, (self.proxy(first), "device"), {})

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Emit ``m``, or what it calls.

        Args:
            m: The module.
            forward: Its forward pass.
            args: What it is given by place.
            kwargs: What it is given by name.
        """
        name = self.path_of_module(m)
        if not self.tracing:
            return forward(*args, **kwargs)
        before, stack = set(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except TraceError:
            raise
        except Exception as error:  # user code runs here: it may raise anything
            why = f"{error}{line_of(error)}"
        self.module_stack = stack
        self._forget([node for node in self.graph.nodes if node not in before])
        name = self.path_of_module(m)
        self.whole = {inner: reason for inner, reason in self.whole.items() if not inner.startswith(f"{name}.")}
        self.whole[name] = why
        return self.create_proxy("call_module", name, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a module's attribute is.

        Args:
            attr: Its name.
            attr_val: What it is.
            parameter_proxy_cache: What stands for those that were met.
        """
        self._attributes = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def _forget(self, nodes: Sequence[fx.Node]) -> None:
        """Take the latest calls back."""
        for name in [name for name, proxy in self._attributes.items() if proxy.node in nodes]:
            del self._attributes[name]
        for node in reversed(nodes):
            self.graph.erase_node(node)

    def _seen(self, kind: str, target: Any, args: Any, kwargs: Any) -> Seen | None:
        """What a call gives for the examples; ``None`` if something that it is given is not known.

        Args:
            kind: What kind of call it is.
            target: What is called.
            args: Arguments by place.
            kwargs: Arguments by name.
        """
        met: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda a: met.append(a) if isinstance(a, fx.Proxy) else None)
        parts = [proxy.seen for proxy in met if isinstance(proxy, Known) and proxy.seen is not None]
        if len(parts) < len(met):
            return None
        values = []
        with self.paused():
            for i in range(len(COPIES)):
                own = fx.node.map_aggregate((args, kwargs), _copy(i))
                values.append(self._computed(kind, target, *own))
        if _holds_tensors(values[0]):
            fixed = not any(part.loose or _holds_tensors(part.values[0]) for part in parts)
            return Seen(tuple(values), made=bool(met) and fixed)
        differs = values[0] != values[1]
        from_loose = any(part.loose or _holds_tensors(part.values[0]) for part in parts)
        return Seen(tuple(values), differs or (from_loose and target not in PICKS))

    def _computed(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """What a call gives.

        Args:
            kind: What kind of call it is.
            target: What is called.
            args: Arguments by place.
            kwargs: Arguments by name.

        Raises:
            TraceError: if a module does not take what it is given.
        """
        if kind == "get_attr":
            return attrgetter(target)(self.root)
        if kind == "call_module":
            try:
                return self.root.get_submodule(target)(*args, **kwargs)
            except Exception as error:  # user code runs here: it may raise anything
                raise does_not_go(self.root, self.example, error) from error  # type: ignore[arg-type]
        return getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)


def _reads_sizes(kind: str, target: Any) -> bool:
    """Whether sizes that a call is given may be those of other tensors, which change with these.

    Args:
        kind: What kind of call it is.
        target: What is called.
    """
    own = operation_at(target) if kind in ("call_function", "call_method") else UNKNOWN
    return own.moves or own.takes == "sizes"


def _copy(place: int) -> Callable[[Any], Any]:
    """What gives what a value is for one of `COPIES`.

    Args:
        place: Which.
    """
    return lambda value: value.seen.values[place] if isinstance(value, Known) and value.seen else value


def _number(value: Any) -> Any:
    """A number instead of what stands for it, if it follows from sizes alone."""
    fixed = isinstance(value, Known) and value.seen is not None and not value.seen.loose
    return value.seen.values[0] if fixed and isinstance(value.seen.values[0], (int, float)) else value


def _holds_tensors(value: Any) -> bool:
    """Whether a value is, or contains, a tensor."""
    found: list[Tensor] = []
    fx.node.map_aggregate(value, lambda part: found.append(part) if isinstance(part, Tensor) else None)
    return bool(found)
