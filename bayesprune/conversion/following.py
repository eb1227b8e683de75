"""A trace of a model for examples of one shape: what its forward pass decides by sizes is decided as for them.

Beside every value of the graph stands what it is for three and for two copies of an example. Python then gets numbers
where it asks for some: conditions, loops and unpacking go by sizes, and so do tensors that are made of sizes. What
follows from the number of examples, or from what tensors hold, is never taken for a number.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.conversion.formats import MADE_LIKE, MOVES, Formats, changes_nothing, settings_of
from bayesprune.conversion.known import Known, Seen, for_copy, holds_tensors, number_of, reads_sizes, sized_by_values
from bayesprune.conversion.modes import Modes, note_modes, plain_mode
from bayesprune.conversion.writing import Written
from bayesprune.data.inputs import Inputs
from bayesprune.errors import TraceError
from bayesprune.graph.shapes import copies_of, does_not_go
from bayesprune.graph.sizes_alone import sizes_alone
from bayesprune.graph.tracer import GateTracer
from bayesprune.graph.tracing import line_of
from bayesprune.graph.untouched import untouched
from bayesprune.ops.registry import UNKNOWN, operation_at

COPIES = 3, 2
"""Numbers of examples: what differs between them follows from the number of examples.

What is taken for fixed is so for the first, which is not the number for which outputs are compared in the end.
"""
PICKS = operator.getitem, getattr, len, "size", "dim", "ndimension", "numel", "stride"
"""What reads sizes, or picks from what it is given: it follows from the number of examples if it differs with it."""


class Follower(GateTracer):
    """Traces a model in eval mode for examples of one shape; a module that it cannot follow becomes one call.

    Arguments of the forward pass that the example does not give are what they are by default.

    Args:
        example: Inputs; ``None`` to follow without.
        kept: Modules that are in eval mode for good.
        sizes_given: Whether numbers that follow from sizes are those of the example wherever they are no sizes.

    Attributes:
        whole: By name of a module that could not be followed, why.
        goes_by_sizes: Whether something was decided by sizes, so that the graph is for inputs of the example's.
        asked: What was asked for its number since the latest call.
        writes: What was written over.
        formats: The kinds of numbers that were read of tensors.
    """

    def __init__(self, example: Inputs | None, kept: Collection[nn.Module], sizes_given: bool = False):
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.example, self.whole = example, dict[str, str]()
        self.sizes_given, self.goes_by_sizes = sizes_given, False
        self.asked: list[fx.Proxy] = []
        self.writes, self.formats = Written(), Formats(self)
        self._spare: set[fx.Node] = set()
        self._attributes: dict[str, Any] = {}
        self._modes = Modes(kept)

    def trace(self, root: Any, *args: Any, **kwargs: Any) -> fx.Graph:
        """The graph of a model's forward pass."""
        example = None if isinstance(root, fx.GraphModule) else self.example
        self._given = [] if example is None else [copies_of(root, example, count) for count in COPIES]
        self.proxy_buffer_attributes = True
        with torch.enable_grad(), untouched(root):
            self._modes.begin(root)
            graph = super().trace(root, *args, **kwargs)
        self.writes.check([self.proxy(node) for node in next(iter(reversed(graph.nodes))).all_input_nodes])
        self._decided(())
        for node in reversed(graph.nodes):
            if node in self._spare and not node.users:
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
        try:
            given = [signature.bind(self.root, *args, **kwargs) for args, kwargs in calls]
        except TypeError as error:
            raise TraceError(f"example_input does not fit forward of {type(self.root).__name__}: {error}") from None
        places: list[Known] = []

        def placed(name: str, *values: Any) -> Any:
            if isinstance(values[0], tuple):
                return tuple(placed(f"{name}_{i}", *each) for i, each in enumerate(zip(*values, strict=True)))
            if isinstance(values[0], dict):
                return {key: placed(key, *(value[key] for value in values)) for key in values[0]}
            place = self.create_proxy("placeholder", name, (), {})
            place.know(Seen(values))
            places.append(place)
            self.formats.give(place, values[0])
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
        if kind == "call_method" and target in MADE_LIKE:
            like, *sizes = args
            settings = {"dtype": like.dtype, "device": like.device, **kwargs}
            return self.create_proxy("call_function", MADE_LIKE[target], tuple(sizes), settings)
        if kind == "call_method" and target == "type" and (len(args) > 1 or kwargs):
            target = "to"
        if kind == "call_method" and target in MOVES and isinstance(args[0], Known) and args[0].made_by:
            (made, sizes, given), settings = args[0].made_by, settings_of((*args[1:], *kwargs.values()))
            if settings is not None:  # it is made where it is moved
                self._spare.add(args[0].node)
                return self.create_proxy("call_function", made, sizes, {**given, **settings})
        follows = self._modes.followed_by(target, args, kwargs)
        args, kwargs = fx.node.map_aggregate((args, kwargs), plain_mode)
        if self.example is None and not torch.is_grad_enabled():
            raise fx.proxy.TraceError("it computes without gradient, which is kept if there is an example_input")
        seen = self._seen(kind, target, args, kwargs) if self._given and kind != "placeholder" else None
        if seen is not None and target is torch._assert:
            return None  # it holds
        if seen is not None and seen.made and (self.sizes_given or operation_at(target) is UNKNOWN):
            self.goes_by_sizes = True  # it is the same in every pass for inputs of the example's
            proxy: Any = self.proxy(self.create_arg(seen.values[0]))  # type: ignore[arg-type]
            proxy.know(Seen(seen.values))
            return proxy
        if seen is not None and target in ("dim", "ndimension"):
            return seen.values[0]
        if seen is not None and kind == "call_method" and changes_nothing(target, args, kwargs, seen):
            return args[0]
        if seen is not None:
            args, kwargs = self.formats.read_again(target, args, kwargs)
        if self.sizes_given and seen and holds_tensors(seen.values[0]) and not reads_sizes(kind, target):
            args, kwargs = fx.node.map_aggregate((args, kwargs), number_of)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        note_modes(proxy.node, follows)
        if seen is not None:
            proxy.know(seen)
            proxy.made_by = (target, args, kwargs) if target in MADE_LIKE.values() else None
            if not holds_tensors(seen.values[0]):
                self._spare.add(proxy.node)
        return None if seen is not None and seen.values[0] is None else proxy

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
            modes = nullcontext() if self.is_leaf_module(m, name) else self._modes.entered()
            with modes, self.formats.entered():
                given = super().call_module(m, forward, args, kwargs)
            self.writes.check(given)
            return given
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

    def _decided(self, given: Sequence[fx.Proxy]) -> None:
        """Note whether a number that was asked for decided something: it did not if torch looked at it to make a call.

        Args:
            given: What the call is given.
        """
        self.goes_by_sizes = self.goes_by_sizes or any(all(a is not b for b in given) for a in self.asked)
        self.asked.clear()

    def _forget(self, nodes: Sequence[fx.Node]) -> None:
        """Take the latest calls back."""
        self.writes.forget(nodes)
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
        self._decided(met)
        self.writes.check(met)
        parts = [proxy.seen for proxy in met if isinstance(proxy, Known) and proxy.seen is not None]
        if len(parts) < len(met):
            return None
        values = []
        told = any(part.told for part in parts)
        with self.paused(), torch.no_grad():
            for i in range(len(COPIES)):
                own = fx.node.map_aggregate((args, kwargs), for_copy(i))
                told = told or sized_by_values(target, *own)
                values.append(self._computed(kind, target, *own))
        if holds_tensors(values[0]):
            fixed = not told and not any(part.loose or holds_tensors(part.values[0]) for part in parts)
            return Seen(tuple(values), made=bool(met) and fixed, told=told)
        differs = values[0] != values[1]
        of_tensors = any(holds_tensors(part.values[0]) for part in parts)
        told = told or (of_tensors and target not in PICKS)
        from_loose = target not in PICKS and any(part.loose for part in parts)
        return Seen(tuple(values), told or differs or from_loose, told=told)

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
            module = self.root.get_submodule(target)
            try:
                with self._modes.plain(module):
                    return sizes_alone(module, args, kwargs)
            except Exception as error:  # user code runs here: it may raise anything
                raise does_not_go(self.root, self.example, error) from error  # type: ignore[arg-type]
        return getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)
