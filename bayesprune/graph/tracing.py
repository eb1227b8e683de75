"""Follow a gated network's forward pass: one node for every layer, gate and function."""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs, as_inputs, each, tensors_of
from bayesprune.errors import BayesPruneError, TraceError
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.layers import Gate, GatedLayer, Residual
from bayesprune.ops import operation_of
from bayesprune.ops.registry import UNKNOWN

_ONE_AT_A_TIME = threading.RLock()


class _Value(fx.Proxy):
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

    Torch's own modules, gates, gated layers and modules of any class that has a record (`bayesprune.ops`) stay whole.

    To trace, fx replaces what every module does when it is called or asked for a parameter, in all threads. So one
    thread traces at a time, and what others call meanwhile does what it always does.
    """

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph of a module's forward pass."""
        with _ONE_AT_A_TIME:
            self._thread = threading.get_ident()
            return super().trace(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for the value of ``node`` in the forward pass."""
        return _Value(node, self)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """What a module's attribute is: a node, if it is a parameter that this trace meets."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        recorded = isinstance(m, (Gate, GatedLayer)) or operation_of(m) is not UNKNOWN
        return recorded or super().is_leaf_module(m, module_qualified_name)

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
        shapes: The shapes of tensors, with one example, as far as they are known from an example input.
        example: That example, if there is one.
        macs: Multiply-adds of operations with one example, if they were counted, see `pruning.meter.count_macs`.

    Example:
        >>> traced = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> [tuple(shape) for shape in traced.shapes.values()]
        [(1, 2), (1, 3), (1, 3), (1, 3)]
    """

    net: nn.Module
    graph: fx.Graph
    fixed: dict[str, str]
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    example: Inputs | None = None
    macs: dict[fx.Node, int] = field(default_factory=dict)

    def learn_shapes(self, example: Inputs) -> None:
        """Note the shapes of all tensors for the first of these examples.

        Raises:
            TraceError: if they do not go through the network.
            GateError: if they do not fit a gate.
        """
        self.shapes |= _shapes(self.net, self.graph, example)
        self.example = example[:1]

    @cached_property
    def shapes_of_several(self) -> dict[fx.Node, torch.Size]:
        """The shapes of tensors with three examples; none if the example is not known, or the network takes but one."""
        if self.example is None:
            return {}
        try:
            several = _shapes(self.net, self.graph, self.example, copies=3)
        except BayesPruneError:
            return {}
        return {**several, **{node: shape for node, shape in self.shapes.items() if node.op == "get_attr"}}

    @cached_property
    def uses(self) -> dict[Gate, list[fx.Node]]:
        """For every gate that the pass meets the nodes that multiply by it, in its order."""
        uses: dict[Gate, list[fx.Node]] = {}
        for node in self.graph.nodes:
            gate = self.gate(node)
            if gate is not None:
                uses.setdefault(gate, []).append(node)
        return uses

    def gate(self, node: fx.Node) -> Gate | None:
        """The gate that ``node`` multiplies by, standing alone or as a part of a layer; ``None`` for no gate."""
        module = self.module(node)
        found = module if isinstance(module, Gate) else getattr(module, "gate", None)
        return found if isinstance(found, Gate) else None

    def rank(self, node: fx.Node) -> int | None:
        """The number of dimensions of what ``node`` gives, if known."""
        return len(self.shapes[node]) if node in self.shapes else None

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that ``node`` calls, if it calls one."""
        if node.op != "call_module":
            return None
        module: Any = self.net
        for part in str(node.target).split("."):  # get_submodule takes several times as long, and this is asked often
            module = module._modules[part]
        return module  # type: ignore[no-any-return]


def trace(net: nn.Module, example_input: Any = None) -> Traced:
    """Follow the forward pass of ``net`` symbolically.

    Args:
        net: The network.
        example_input: Inputs, shape ``(B, ...)`` (those of a network with several in a tuple, or a dict by name), whose
            first example then tells the shapes of all tensors; ``None`` to go without.

    Raises:
        TraceError: if it cannot be followed (control flow that depends on data, ...), if ``net`` is itself a gated
            layer, or if the example does not go through it.
        GateError: if the example does not fit a gate.
    """
    if isinstance(net, (Gate, Residual, GatedLayer)):
        raise TraceError(
            f"a lone {type(net).__name__} cannot be followed; wrap it: torch.nn.Sequential({type(net).__name__}(...))"
        )
    try:
        graph = GateTracer().trace(net)
    except Exception as error:  # user code runs here: it may raise anything
        raise TraceError(
            f"the forward pass of {type(net).__name__} cannot be followed: {error}. {_advice(error)}"
        ) from error
    traced = Traced(net, graph, _fixed_modules(net, graph))
    for node in graph.nodes:
        held = attrgetter(str(node.target))(net) if node.op == "get_attr" else None
        if isinstance(held, Tensor):
            traced.shapes[node] = held.shape
    if example_input is not None:
        traced.learn_shapes(as_inputs(example_input))
    return traced


def _advice(error: Exception) -> str:
    if "'len'" in str(error):
        return "In forward, write x.shape[0] for len(x)"
    return "Avoid Python conditions and loops on tensor values or shapes in forward"


class _Shapes(Execution):
    """One pass that notes the shape of every tensor."""

    def __init__(self, net: nn.Module, graph: fx.Graph):
        super().__init__(net, graph)
        self.found: dict[fx.Node, torch.Size] = {}

    def of(self, inputs: Inputs) -> dict[fx.Node, torch.Size]:
        """Go through the network with these inputs."""
        given = given_inputs(self.nodes, inputs)
        self.found = {node: value.shape for node, value in given.items() if isinstance(value, Tensor)}
        self.run(given)
        return self.found

    def compute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Compute one operation."""
        value = super().compute(node, values)
        if isinstance(value, Tensor):
            self.found[node] = value.shape
        return value


def _shapes(net: nn.Module, graph: fx.Graph, example: Inputs, copies: int = 1) -> dict[fx.Node, torch.Size]:
    """The shapes of all tensors for so many copies of the first example, in eval mode."""
    like = next(net.parameters(), tensors_of(example)[0])
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            one = each(example[:1], lambda x: x.to(like if x.is_floating_point() else like.device))
            inputs = each(one, lambda x: torch.cat([x] * copies))
            return _Shapes(net.eval(), graph).of(inputs)
    except BayesPruneError:
        raise
    except Exception as error:  # user code runs here: it may raise anything
        given, why = ", ".join(str(tuple(x.shape)) for x in tensors_of(example)), str(error).partition("\n")[0]
        raise TraceError(
            f"example_input of shape {given} does not go through {type(net).__name__}: {why}. Pass inputs as those of "
            "training, (B, ...)"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


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
        if count > 1 and _has_state(module) and not isinstance(module, Gate):
            fixed[name] = "is called more than once"
        elif name in tied:
            fixed[name] = "shares its parameters with another module"
        elif name in direct or hasattr(module, "parametrizations"):
            fixed[name] = "has parameters that are used directly, not through the module"
    return fixed


def _has_state(module: nn.Module) -> bool:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return bool(tensors)
