"""What each operation of a traced network does to the entries of its inputs: one rule for each kind of operation."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from bayesprune.errors import GateError
from bayesprune.graph.functions import function
from bayesprune.graph.memory import overwritten
from bayesprune.graph.trace import Traced
from bayesprune.layers import Gate
from bayesprune.ops import axes, spatial
from bayesprune.ops import entrywise as by
from bayesprune.ops import operations as ops
from bayesprune.ops.axes import NEEDS_SHAPES
from bayesprune.ops.call import Call, Following
from bayesprune.ops.calls import folds_constants, is_depthwise, is_shape, name_of
from bayesprune.ops.entrywise import Known
from bayesprune.ops.features import Features, Flow, Read, Step, barrier
from bayesprune.ops.moving import follow, only_moves
from bayesprune.ops.registry import operation_of

OVERWRITTEN = "whose output is overwritten in place while others read it"


class Rules:
    """The rules for one network with some of its gates switched off.

    Of a tensor one axis is followed at a time. A gate along another axis than the one that is followed where it stands
    only keeps zeros zero, and is put off: to rules that follow the axes of gates that were put off, and no layer's.

    Args:
        traced: The network.
        off: For gates that have entries switched off, where, shape ``(size,)``, bool.
        only: The gates to follow, put off by other rules, with the rank of what they gate; ``None`` for those along the
            features of layers, and others as far as they are not in conflict.

    Attributes:
        put_off: The gates that are left to other rules, found so far, with the rank of what they gate.
        assumed: Whether any tensor of unknown rank was taken for a matrix.
    """

    def __init__(self, traced: Traced, off: Mapping[Gate, Tensor], only: Mapping[Gate, int] | None = None):
        self.traced = traced
        self.off = off
        self.only = only
        self.put_off: dict[Gate, int] = {}
        self.assumed = False
        self.following = Following(off, only)
        self._attributes: dict[str, Tensor] = {}

    def with_off(self, off: Mapping[Gate, Tensor]) -> Rules:
        """The same rules with other gates switched off; what was found out by running calls is used again."""
        rules = Rules(self.traced, off, self.only)
        rules.following.moved = self.following.moved
        return rules

    def step(self, node: fx.Node, known: Known) -> Step:
        """What ``node`` does, given what is known of its inputs.

        Raises:
            GateError: for a gate that does not fit what it gates.
            TraceError: for a layer that does not fit its input.
        """
        step = self._step(node, known)
        self.following.ties += step.ties
        out = step.out
        if out is not None and out.layout == "plain" and node.op != "get_attr":
            rank = self.traced.rank(node) or out.rank
            if rank is not None:
                axis = out.axis % rank
                step.out = replace(out, rank=rank, axis=-1 if axis == rank - 1 and rank > 2 else axis)
            if rank == 2:
                sources = [known[i] for i in node.all_input_nodes]
                self.assumed = self.assumed or any(x is not None and x.rank is None for x in sources)
        return step

    def _step(self, node: fx.Node, known: Known) -> Step:
        if node.op == "placeholder":
            return Step()
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op == "output":
            return barrier(node, "is an output of the network")
        if overwritten(self.traced, node):
            return barrier(node, f"reaches {node.name}, {OVERWRITTEN}")
        module = self.traced.module(node)
        several = None if self.traced.example is None else lambda: self.traced.shapes_of_several
        call = Call(node, self.traced.net, known, self.traced.shapes, self.following, several)
        if not operation_of(node, module).moves or is_shape(node):
            step = self._rule(node, known)
            free = step.pins and is_shape(node) and several is not None and only_moves(node, call.shapes) and several()
            return Step() if free else step
        return follow(call, lambda: self._rule(node, known))

    def _rule(self, node: fx.Node, known: Known) -> Step:
        if node.op == "call_module":
            return self._module(node, known)
        if "out" in node.kwargs:
            return barrier(node, f"reaches {name_of(node)} with out=, which writes over another tensor")
        return function(node, known, self.traced.shapes, self.fresh)

    def fresh(self, size: int) -> Tensor:
        """New ids for ``size`` physical entries."""
        return self.following.fresh(size)

    @property
    def num_ids(self) -> int:
        """How many physical entries have an id."""
        return self.following.num_ids

    # modules -------------------------------------------------------------------------------------------------------

    def _module(self, node: fx.Node, known: Known) -> Step:
        module, name = self.traced.module(node), str(node.target)
        kind = type(module)
        if name in self.traced.fixed:
            return barrier(node, f"reaches {name}, which {self.traced.fixed[name]}")
        if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
            return barrier(node, f"reaches {name}, which is not called with one tensor")
        source = node.args[0]
        x = known[source]
        if isinstance(module, Gate):
            return self._gate(node, module, source, x)
        if kind in (*ops.LINEARS, *ops.CONVOLUTIONS, *ops.TRANSPOSED):
            return self._layer(node, module, source, x)  # type: ignore[arg-type]
        if x is None:
            return Step()
        if kind in ops.BATCH_NORMS:
            return by.batch_norm(node, module, source, x)  # type: ignore[arg-type]
        if kind in ops.POINTWISE:
            return by.pointwise(source, x, module.forward)  # type: ignore[union-attr]
        if kind is nn.PReLU:
            return by.prelu(node, module, source, x)  # type: ignore[arg-type]
        if kind in ops.DROPOUTS:
            return by.dropout(source, x, module.p)  # type: ignore[union-attr, arg-type]
        if kind in ops.POOLS:
            return by.pool(node, source, x, ops.POOLS[kind], vars(module))  # type: ignore[index]
        if kind is nn.Flatten:
            dims = module.start_dim, module.end_dim  # type: ignore[union-attr]
            return axes.flatten(node, source, x, *dims, self.traced.shapes.get(source))  # type: ignore[arg-type]
        if kind in ops.RESAMPLES:
            return spatial.resample(node, source, x)
        if kind in ops.PADS:
            options = vars(module)
            return spatial.pad(node, source, x, options["padding"], ops.PADS[kind], options.get("value"))  # type: ignore[index]
        if kind is nn.PixelShuffle:
            return spatial.pixel_shuffle(node, source, x, module.upscale_factor)  # type: ignore[union-attr]
        if kind is nn.PixelUnshuffle:
            return spatial.pixel_unshuffle(node, source, x, module.downscale_factor)  # type: ignore[union-attr]
        if kind in ops.STATISTICS:
            return barrier(node, f"reaches {name}, a {kind.__name__}, which takes its zeros into statistics of others")
        return barrier(node, f"reaches {name}, a {kind.__name__}, through which a removed structure cannot be followed")

    def _gate(self, node: fx.Node, gate: Gate, source: fx.Node, x: Features | None) -> Step:
        off = self.off.get(gate)
        if gate.size == 1 and gate.index is None:
            if x is None:
                return Step()
            value = torch.zeros_like(x.value) if off is not None and bool(off.all()) else x.value
            return by.same(source, x, value)
        rank = self.traced.rank(source) or (self.only or {}).get(gate) or gate.rank
        if x is not None and x.rank is None:
            x = replace(x, rank=rank)
        if gate.dim == 0 or (rank is not None and gate.dim % rank == 0):
            return barrier(node, f"is gated along dimension {gate.dim}, the examples of a batch")
        if self.only is not None and gate not in self.only:
            return Step() if x is None else self._background(node, gate, source, x)
        if x is None:
            value = torch.full((gate.size,), torch.nan, dtype=torch.float64)
            return Step(Features(self.fresh(gate.size), by.silenced(value, off), gate.dim, rank), selects=True)
        seen = x.along(gate.dim)
        if seen is None or (x.rank is None and seen.rank == 2 and self._other_axis(source)):
            if x.rank is None:
                where = f"along dimension {x.axis} and then {gate.dim} of a tensor of unknown rank"
                return barrier(node, f"is gated {where}; {NEEDS_SHAPES}")
            self.put_off[gate] = x.rank
            return self._background(node, gate, source, x)
        src = self._gated_entries(node, gate, seen, x.rank is None)
        out = Features(self.fresh(gate.size), by.silenced(x.value[src], off), seen.axis, seen.rank)
        return Step(out, flows=[Flow(source, src, torch.arange(gate.size))], selects=True)

    def _background(self, node: fx.Node, gate: Gate, source: fx.Node, x: Features) -> Step:
        """A gate that is followed by other rules: along another axis, it leaves of all constants the zeros."""
        if x.along(gate.dim) is not None:
            return barrier(node, f"reaches {node.target}, a gate along the same dimension that is followed apart")
        return by.same(source, x, torch.where(x.value == 0, x.value, torch.nan))

    def _other_axis(self, source: fx.Node) -> bool:
        """Whether features of a tensor of unknown rank, gated along their own axis before, are not a gate's."""
        while len(source.all_input_nodes) == 1 and not isinstance(self.traced.module(source), (Gate, *ops.LINEARS)):
            source = source.all_input_nodes[0]
        return isinstance(self.traced.module(source), Gate)

    def _gated_entries(self, node: fx.Node, gate: Gate, x: Features, assumed: bool) -> Tensor:
        """Which entry of ``x`` each of the gates multiplies."""
        size = gate.in_size
        count, rest = divmod(size, len(x))
        if rest or (x.layout == "plain" and count != 1):
            raise GateError(
                f"gate {node.target!r} has {size} entries, but what it gates has {len(x)} features"
                + (" (times the size of the map)" if x.layout != "plain" else "")
                + "; make the gate's size equal to the number of features or channels before it"
                + (", or, if it runs along another dimension, " + NEEDS_SHAPES if assumed else "")
            )
        entries = x.entries(size, str(node.target))
        return entries if gate.index is None else entries[gate.index.cpu()]

    def _layer(self, node: fx.Node, layer: nn.Module, source: fx.Node, x: Features | None) -> Step:
        """A linear layer or a convolution, followed by its gate if it has one."""
        if not all(isinstance(p, nn.Parameter) for p in (layer.weight, layer.bias) if p is not None):
            return barrier(node, f"reaches {node.target}, whose weight is computed from other parameters")
        if is_depthwise(layer):
            step = by.depthwise(node, layer, source, x)
        elif getattr(layer, "groups", 1) != 1:
            return barrier(node, f"reaches {node.target}, a convolution in groups")
        else:
            step = self._dense(node, layer, source, x)
        gate = getattr(layer, "gate", None)
        if step.out is not None and gate is not None and gate in self.off:
            off = self.off[gate].expand(len(step.out))
            step.out = replace(step.out, value=by.silenced(step.out.value, off))
        return step

    def _dense(self, node: fx.Node, layer: nn.Module, source: fx.Node, x: Features | None) -> Step:
        if isinstance(layer, nn.Linear):
            size, axis, outputs = layer.in_features, -1, layer.out_features
            seen = None if x is None else x.along(-1)
            known = x if seen is None else seen
            rank = None if known is None else known.rank
        else:
            size, axis, outputs = layer.in_channels, 1, layer.out_channels  # type: ignore[assignment]
            rank = layer.weight.dim()  # type: ignore[operator]
            seen = x if x is not None and x.axis == 1 and x.rank in (None, rank) else None
        out = None
        if self.only is None:
            out = Features(self.fresh(outputs), torch.full((outputs,), torch.nan, dtype=torch.float64), axis, rank)
        if x is None:
            return Step(out)
        if seen is None:
            return Step(out, pins=[source], reason=self._elsewhere(node, x))
        seen.entries(size, str(node.target))
        must, reason = torch.zeros(len(x), dtype=torch.bool), ""
        if layer.bias is None:
            reason = f"{node.target} has no bias to take up the constant that is left"
        elif isinstance(layer, ops.TRANSPOSED):
            reason = f"{node.target} does not spread the constant that is left evenly, so that no bias can take it up"
        elif not folds_constants(layer):
            reason = f"{node.target} pads with zeros, so that the constant that is left does not fold into its bias"
        if reason:
            must = ~x.unknown & (x.value != 0)
        return Step(out, reads=[Read(source, must, reason)])

    def _elsewhere(self, node: fx.Node, x: Features) -> str:
        """Why a layer does not read the axis of ``x``."""
        if x.rank is None and x.axis not in (1, -1):
            return f"has its features along dimension {x.axis} of a tensor of unknown rank; {NEEDS_SHAPES}"
        return f"has its features along another dimension than {node.target} reads"

    def _attribute(self, node: fx.Node) -> Step:
        """A parameter or buffer that is used directly, if it has one dimension and only scales or shifts."""
        target = str(node.target)
        owner, tensor = target.rpartition(".")[0], operator.attrgetter(target)(self.traced.net)
        if self.only is not None or owner in self.traced.fixed or not isinstance(tensor, Tensor):
            return Step()
        long = [dim - tensor.dim() for dim, size in enumerate(tensor.shape) if size > 1]
        same = [n for n in self.traced.graph.nodes if n.op == "get_attr" and n.target == node.target]
        simple = all(user.target in ops.PRODUCTS | ops.SUMS for n in same for user in n.users)
        holders = [name for name, p in self.traced.net.named_parameters(remove_duplicate=False) if p is tensor]
        if len(long) != 1 or not simple or len(holders) > 1:
            return Step()
        size = tensor.shape[long[0]]
        if target not in self._attributes:
            self._attributes[target] = self.fresh(size)
        return Step(Features(self._attributes[target], torch.full((size,), torch.nan, dtype=torch.float64), long[0]))
