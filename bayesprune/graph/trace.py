"""Follow a gated network's forward pass: one node for every layer, gate and function."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from bayesprune.errors import TraceError
from bayesprune.layers import GATED_LAYERS, Gate, Residual

_ONE_AT_A_TIME = threading.RLock()


class GateTracer(fx.Tracer):
    """Traces through user modules and `layers.Residual`; torch's own modules, gates and gated layers stay whole.

    To trace, fx replaces what every module does when it is called or asked for a parameter, in all threads. So one
    thread traces at a time, and what others call meanwhile does what it always does.
    """

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph of a module's forward pass."""
        with _ONE_AT_A_TIME:
            self._thread = threading.get_ident()
            return super().trace(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a module's attribute is: a node, if it is a parameter that this trace meets."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        return isinstance(m, (Gate, *GATED_LAYERS)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Emit ``m``; a `layers.Residual` is by-pass + gated branch, whatever its gate is now."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        if isinstance(m, Residual) and type(m).forward is Residual.forward:

            def forward(x: Any) -> Any:
                return m.shortcut(x) + m.gate(m.body(x))

        return super().call_module(m, forward, args, kwargs)


class BlockTracer(GateTracer):
    """Traces as `GateTracer`, but keeps every `layers.Residual` whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        return isinstance(m, Residual) or super().is_leaf_module(m, module_qualified_name)


@dataclass
class Traced:
    """A network with the graph of its forward pass.

    Attributes:
        net: The network.
        graph: Its forward pass; module nodes are named as in ``net``.
        fixed: Modules that must stay as they are, with the reason: shared ones and those whose parameters are used
            elsewhere.
    """

    net: nn.Module
    graph: fx.Graph
    fixed: dict[str, str]

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that ``node`` calls, if it calls one."""
        return self.net.get_submodule(str(node.target)) if node.op == "call_module" else None


def trace(net: nn.Module) -> Traced:
    """Follow the forward pass of ``net`` symbolically; no example input is needed.

    Raises:
        TraceError: if it cannot be followed (control flow that depends on data, ...), or if ``net`` is itself a gated
            layer.
    """
    if isinstance(net, (Gate, Residual, *GATED_LAYERS)):
        raise TraceError(
            f"a lone {type(net).__name__} cannot be followed; wrap it: torch.nn.Sequential({type(net).__name__}(...))"
        )
    try:
        graph = GateTracer().trace(net)
    except Exception as error:  # user code runs here: it may raise anything
        raise TraceError(
            f"the forward pass of {type(net).__name__} cannot be followed: {error}. Avoid Python conditions and loops "
            "on tensor values or shapes in forward"
        ) from error
    return Traced(net, graph, _fixed_modules(net, graph))


def block_graph(net: nn.Module) -> fx.Graph:
    """The forward pass of a network that `trace` can follow, with one node for every outermost `layers.Residual`."""
    return BlockTracer().trace(net)


def _fixed_modules(net: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Modules with parameters that are called more than once, or whose parameters are used elsewhere too."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    direct = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    owners: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
    fixed = {}
    for name, count in calls.items():
        module = net.get_submodule(name)
        if count > 1 and _has_state(module):
            fixed[name] = "is called more than once"
        elif name in tied:
            fixed[name] = "shares its parameters with another module"
        elif name in direct or hasattr(module, "parametrizations"):
            fixed[name] = "has parameters that are used directly, not through the module"
    return fixed


def _has_state(module: nn.Module) -> bool:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return bool(tensors)
