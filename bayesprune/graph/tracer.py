"""What meets every call of a forward pass and makes a graph of them: the library's kind of ``torch.fx.Tracer``."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import fx, nn

from bayesprune.graph.meeting import functions_met
from bayesprune.graph.origins import Reader
from bayesprune.layers import Gate, GatedLayer, Residual, Whole
from bayesprune.ops import operation_of
from bayesprune.ops.registry import UNKNOWN

_ONE_AT_A_TIME = threading.RLock()
OPEN = {"torchvision.models.swin_transformer._patch_merging_pad"}
"""Functions that fx is told to keep closed, although what they do can be followed."""


class Value(fx.Proxy):
    """A value of a traced forward pass, whose ``+=``, ``-=``, ``*=`` and ``/=`` write over it, as tensors' do."""

    def _inplace(self, operation: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._inplace(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._inplace(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._inplace(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._inplace(operator.itruediv, other)


class GateTracer(fx.Tracer):
    """Traces through user modules and `layers.Residual`.

    Torch's own modules, gates, gated layers, `layers.Whole` and modules of any class that has a record
    (`bayesprune.ops`) stay whole.

    To trace, fx replaces what every module does when it is called or asked for a parameter, in all threads. So one
    thread traces at a time, and what others call meanwhile does what it always does.
    """

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph of a module's forward pass."""
        with _ONE_AT_A_TIME:
            self._thread = threading.get_ident()
            self._readers: list[Reader] = []
            self._opened: list[fx.Node] = []
            with functions_met(args[0] if args else kwargs["root"]):
                graph = super().trace(*args, **kwargs)
            for node in self._opened:  # the last call of a function, which fx takes for that of the function itself
                node.meta.pop("is_wrapped", None)
            return graph

    @property
    def tracing(self) -> bool:
        """Whether calls of modules are met now, by this thread."""
        return threading.get_ident() == self._thread

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which modules do what they always do."""
        self._thread, thread = 0, self._thread
        try:
            yield
        finally:
            self._thread = thread

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """The forward pass of the whole network, and what stands for its inputs."""
        forward, inputs = super().create_args_for_root(*args, **kwargs)
        root = self.root
        if not isinstance(root, fx.GraphModule):
            return forward, inputs

        @wraps(forward)
        def read(_: Any, *given: Any) -> Any:
            return self._read(root, given, {})

        return read, inputs

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node, which is told where its call stands, if that is in a graph."""
        node = super().create_node(*args, **kwargs)
        if self._readers:
            node.meta["origin"] = self._readers[-1].origin
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **named: Any) -> Any:
        """What stands for the value of a call; a closed function that can be followed is."""
        if kind == "call_function" and f"{target.__module__}.{target.__qualname__}" in OPEN:
            value = target(*args, **kwargs)
            self._opened.append(value.node)
            return value
        return super().create_proxy(kind, target, args, kwargs, *others, **named)

    def _read(self, module: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a GraphModule gives, call by call."""
        names = [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
        self._readers.append(Reader(module, self))
        try:
            return self._readers[-1].run(*args, *[kwargs[name] for name in names[len(args) :] if name in kwargs])
        finally:
            self._readers.pop()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of ``node`` in the forward pass."""
        return Value(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a module's attribute is: a node, if it is a parameter that this trace meets."""
        if not self.tracing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        recorded = isinstance(m, (Gate, GatedLayer, Whole)) or operation_of(m) is not UNKNOWN
        return recorded or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Emit ``m``; a `layers.Residual` is by-pass + gated branch, whatever its gate is now."""
        if not self.tracing:
            return forward(*args, **kwargs)
        if isinstance(m, Residual) and type(m).forward is Residual.forward:

            def forward(x: Any, *others: Any) -> Any:
                return m.shortcut(x) + m.gate(m.body(x, *others))

        elif isinstance(m, fx.GraphModule):

            def forward(*args: Any, **kwargs: Any) -> Any:
                return self._read(m, args, kwargs)

        return super().call_module(m, forward, args, kwargs)


class BlockTracer(GateTracer):
    """Traces as `GateTracer`, but keeps every `layers.Residual` whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        return isinstance(m, Residual) or super().is_leaf_module(m, module_qualified_name)


def block_graph(net: nn.Module) -> fx.Graph:
    """The forward pass of a network that `trace` can follow, with one node for every outermost `layers.Residual`."""
    return BlockTracer().trace(net)
