"""Follow a gated network's forward pass: one node for every layer, gate and function."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs, as_inputs
from bayesprune.errors import BayesPruneError, TraceError
from bayesprune.graph.constants import constants_of
from bayesprune.graph.origins import written
from bayesprune.graph.shapes import check_goes, first_line, shapes_of
from bayesprune.graph.tracer import GateTracer
from bayesprune.layers import Gate, GatedLayer, RecurrentLayer, Residual, Whole
from bayesprune.ops import operation_of

TWICE = "is called more than once"
"""Why a module stays that is no layer of which one call can be cut as another."""


@dataclass
class Traced:
    """A network with the graph of its forward pass.

    Attributes:
        net: The network.
        graph: Its forward pass; module nodes are named as in ``net``.
        fixed: Modules that must stay as they are, with the reason: those that share parameters, or are used in a way
            that nothing is known of.
        shapes: The shapes of tensors, with one example, as far as they are known from an example input.
        example: That example, if there is one.
        macs: Multiply-adds of operations with one example, if they were counted, see `pruning.meter.count_macs`.
        moved: By the gates that are followed, what running calls gave, and which are made with those that read them,
            see `ops.call.Following`; as long as the graph stays as it is.
        forms: What running calls gave, by all that it depends on. Networks made of one another may share it.

    Examples:
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
    moved: dict[frozenset[tuple[Gate, int]] | None, tuple[dict[Any, Any], set[fx.Node]]] = field(default_factory=dict)
    forms: dict[Any, Any] = field(default_factory=dict)

    def copied(self) -> tuple[Traced, dict[fx.Node, fx.Node]]:
        """A copy with a network of its own, and its calls by those that they are copies of."""
        nodes: dict[fx.Node, fx.Node] = {}
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph, nodes))
        shapes = {nodes[node]: shape for node, shape in self.shapes.items() if node in nodes}
        copied = Traced(copy.deepcopy(self.net), graph, self.fixed, shapes, self.example, forms=self.forms)
        copied.written = {nodes[node]: nodes[place] for node, place in self.written.items() if node in nodes}
        return copied, nodes

    def learn_shapes(self, example: Inputs) -> None:
        """Note the shapes of all tensors for the first of these examples.

        Raises:
            TraceError: if they do not go through the network.
            GateError: if they do not fit a gate.
        """
        self.shapes |= shapes_of(self.net, self.graph, example)
        self.example = example[:1]

    @cached_property
    def shapes_of_several(self) -> dict[fx.Node, torch.Size]:
        """The shapes of tensors with three examples; none if the example is not known, or the network takes but one."""
        if self.example is None:
            return {}
        try:
            several = shapes_of(self.net, self.graph, self.example, copies=3)
        except BayesPruneError:
            return {}
        return {**several, **{node: shape for node, shape in self.shapes.items() if node.op == "get_attr"}}

    @cached_property
    def tied(self) -> set[int]:
        """The ids of parameters that have several names."""
        names = Counter(id(p) for _, p in self.net.named_parameters(remove_duplicate=False))
        return {each for each, count in names.items() if count > 1}

    @cached_property
    def repeated(self) -> set[str]:
        """Layers that are called more than once, and so are cut for all of their calls alike."""
        calls = Counter(str(node.target) for node in self.graph.nodes if node.op == "call_module")
        several = {name: self.net.get_submodule(name) for name, count in calls.items() if count > 1}
        return {name for name, module in several.items() if name not in self.fixed and _is_cut_alike(module)}

    @cached_property
    def constants(self) -> dict[fx.Node, Tensor]:
        """Tensors of whole numbers that are the same in every pass."""
        return constants_of(self.net, self.graph)

    @cached_property
    def written(self) -> dict[fx.Node, fx.Node]:
        """The calls whose numbers are data of a ``torch.fx.GraphModule``, and where they stand there."""
        return written(self.net, self.graph.nodes)

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


def trace(net: nn.Module, example_input: Any = None, tracer: GateTracer | None = None) -> Traced:
    """Follow the forward pass of ``net`` symbolically.

    Args:
        net: The network.
        example_input: Inputs, shape ``(B, ...)`` (those of a network with several in a tuple, or a dict by name), whose
            first example then tells the shapes of all tensors; ``None`` to go without.
        tracer: What follows it, if it is one that knows more than a `GateTracer`.

    Raises:
        TraceError: if it cannot be followed (control flow that depends on data, ...), if ``net`` is itself a gated
            layer, or if the example does not go through it.
        GateError: if the example does not fit a gate.
    """
    if isinstance(net, (Gate, Residual, GatedLayer)):
        raise TraceError(
            f"a lone {type(net).__name__} cannot be followed; wrap it: torch.nn.Sequential({type(net).__name__}(...))"
        )
    tracer = tracer or GateTracer()
    try:
        graph = tracer.trace(net)
    except TraceError:
        raise
    except Exception as error:  # user code runs here: it may raise anything
        if example_input is not None:
            check_goes(net, as_inputs(example_input))  # which says what the network does not take, if it is that
        raise TraceError(
            f"the forward pass of {type(net).__name__} cannot be followed: {first_line(error)}{line_of(error)}. "
            f"{_advice(error)}"
        ) from error
    traced = Traced(net, graph, fixed_modules(net, graph))
    for node in graph.nodes:
        held = attrgetter(str(node.target))(net) if node.op == "get_attr" else None
        if isinstance(held, Tensor):
            traced.shapes[node] = held.shape
    if example_input is not None:
        traced.learn_shapes(as_inputs(example_input))
    return traced


def line_of(error: Exception) -> str:
    """The last line of code of neither torch nor this library that an error came through, to be put behind it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)
    users = [frame for frame in frames if not frame.filename.startswith(own)]
    return f" ({Path(users[-1].filename).name}, line {users[-1].lineno}: {users[-1].line})" if users else ""


def _advice(error: Exception) -> str:
    if "'len'" in str(error):
        return "In forward, write x.shape[0] for len(x)"
    return (
        "Avoid Python conditions and loops on tensor values or shapes in forward, or put them into a module of their "
        "own: convert leaves it whole, as layers.Whole does"
    )


def fixed_modules(net: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Modules whose parameters are used elsewhere too, and those called more than once that are no layers to be cut.

    Args:
        net: The network.
        graph: Its forward pass.
    """
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    direct = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr" and node.users}
    owners: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    tied = {name for names in owners.values() if len(names) > 1 for name in names}
    called = {name: net.get_submodule(name) for name in calls}
    inside = {part for module in called.values() if isinstance(module, Whole) for part in module.whole.modules()}
    fixed = {}
    for name, count in calls.items():
        module = called[name]
        if count > 1 and _has_state(module) and not isinstance(module, Gate) and not _is_cut_alike(module):
            fixed[name] = TWICE
        elif module in inside:
            fixed[name] = "is used in a module that stays whole"
        elif name in tied:
            fixed[name] = "shares its parameters with another module"
        elif name in direct or hasattr(module, "parametrizations"):
            fixed[name] = "has parameters that are used directly, not through the module"
    return fixed


def _is_cut_alike(module: nn.Module) -> bool:
    """Whether a module is a layer that can be cut for several calls at once."""
    operation = operation_of(module)
    return operation.parts is not None and not isinstance(module, (Gate, RecurrentLayer))


def _has_state(module: nn.Module) -> bool:
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return bool(tensors)
