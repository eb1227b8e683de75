"""What the gates of a network rule, and what is left without: a table, and its rows as records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.conversion.heads import gates_heads
from bayesprune.conversion.sizes import LEFT
from bayesprune.conversion.source import owner_of
from bayesprune.data.inputs import as_inputs
from bayesprune.graph import Traced, trace
from bayesprune.graph.coupling import NO_GATE, coupled
from bayesprune.graph.group import Group
from bayesprune.graph.tracing import TWICE
from bayesprune.layers import Gate, Whole, gates_of, holders_of
from bayesprune.markup import html_table
from bayesprune.pruning.meter import count_macs, eval_mode

HEAD = "kind", "gate", "size", "multiply-adds", "rules"
KINDS = "branch", "head", "size", "unit", "none"


@dataclass(frozen=True)
class Structure:
    """One kind of structures of a network.

    Attributes:
        kind: ``"branch"``, ``"head"``, ``"size"`` for features of keys or values within heads, ``"unit"``, or
            ``"none"`` for what is left without a gate.
        gate: Names of the gates, or of the layers that write what is left, or of tensors if there are none.
        size: Number of structures.
        share: Share of the network's multiply-adds in layers that become smaller with them.
        rules: Names of these layers, or why there is no gate.
    """

    kind: str
    gate: str
    size: int
    share: float
    rules: str


class Structures(list[Structure]):
    """The structures of a network; printed, they are a table.

    Args:
        rows: The structures.
        share: Share of the multiply-adds in layers that some gate rules.
        within: The same for gates of heads and units alone, which make layers smaller and leave branches.
    """

    def __init__(self, rows: Collection[Structure], share: float, within: float):
        super().__init__(rows)
        self.share, self.within = share, within

    def __str__(self) -> str:
        cells = [HEAD, *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([*(line.rstrip() for line in lines), self._ruled()])

    def _repr_html_(self) -> str:
        """For notebooks: the same as a table."""
        return html_table(self._ruled(), HEAD, self._cells())

    def _cells(self) -> list[tuple[str, ...]]:
        """A line for each structure."""
        return [(s.kind, s.gate, str(s.size), f"{s.share:.1%}", s.rules) for s in self]

    def _ruled(self) -> str:
        """What gates rule of the network."""
        return f"gates rule {self.share:.1%} of the multiply-adds, those of heads and units {self.within:.1%}"


@checked_arguments
def structures(net: nn.Module, *, example_input: Any) -> Structures:
    """What carries gates in a network, what share of the multiply-adds they rule, and what was left and why.

    Args:
        net: A gated network, or a `BayesianNet`.
        example_input: Inputs, shape ``(B, ...)``; the first example's multiply-adds are counted.

    Examples:
        >>> import torch
        >>> from bayesprune.layers import Gate
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Gate(3), nn.Linear(3, 1))
        >>> print(structures(net, example_input=torch.zeros(1, 2)))
        kind  gate  size  multiply-adds  rules
        unit  2     3     100.0%         0, 3
        none  3     1     0.0%           is the only one
        gates rule 100.0% of the multiply-adds, those of heads and units 100.0%

    Raises:
        TraceError: for a network whose forward pass cannot be followed.
        GateError: for a gate that does not fit what it gates.
    """
    inner = getattr(net, "gated_network", None)
    plain = inner() if callable(inner) else net
    traced = trace(plain, example_input)
    macs: dict[str, int] = {}
    with eval_mode(plain):
        for node, count in count_macs(traced, as_inputs(example_input)[:1]).items():
            if count:
                macs[owner_of(node)] = macs.get(owner_of(node), 0) + count
    total = max(1, sum(macs.values()))
    kinds = {name: _kind(traced, gate) for name, gate in gates_of(plain).items()}
    rows: list[Structure] = []
    ruled: dict[str, set[str]] = {kind: set() for kind in KINDS}
    found = coupled(traced)
    for group in found:
        kind = min((kinds[gate] for gate in group.gates), key=KINDS.index, default="none")
        layers = _ruled(group, kind, macs)
        share = sum(macs[layer] for layer in layers) / total
        if group.gates:
            ruled[kind].update(layers)
            rows.append(Structure(kind, ", ".join(group.gates), group.size, share, ", ".join(layers)))
        else:
            share = 0.0 if set().union(*ruled.values()).issuperset(layers) else share
            places = group.written or dict.fromkeys(part.tensor for part in group.slices)
            stream = group.reason == NO_GATE and len(group.written) > 1
            why = f"{NO_GATE}; several layers write it (streams=True)" if stream else group.reason
            rows.append(Structure("none", ", ".join(places), group.size, share, why))
    for name, module in plain.named_modules():
        if isinstance(module, Whole):
            why = f"stays whole: {module.reason}" if module.reason else "stays whole"
            rows.append(Structure("none", name, 1, macs.get(name, 0) / total, why))
    for name, (size, why) in getattr(plain, "meta", {}).get(LEFT, {}).items():
        rows.append(Structure("none", name, size, 0.0, why.partition(";")[0]))
    rows += _not_followed(traced, {name for group in found for name in group.written}, macs, total)
    rows.sort(key=lambda row: KINDS.index(row.kind))
    within = ruled["head"] | ruled["size"] | ruled["unit"]
    share, inside = (sum(macs[layer] for layer in layers) / total for layers in (within | ruled["branch"], within))
    return Structures(rows, share, inside)


def _not_followed(traced: Traced, written: Collection[str], macs: Mapping[str, int], total: int) -> list[Structure]:
    """A row for every layer whose outputs are no structures of which anything is known.

    Args:
        traced: The network.
        written: Names of layers that have rows.
        macs: Multiply-adds by the name of the layer.
        total: Those of the network.
    """
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    rows = []
    for name, count in calls.items():
        layer = traced.net.get_submodule(name)
        if name in macs and name not in written and not isinstance(layer, Whole):
            why = TWICE if count > 1 else "gives what no gate can stand behind"
            rows.append(Structure("none", name, _outputs(layer), macs[name] / total, why))
    return rows


def _outputs(layer: nn.Module) -> int:
    """How many features a layer gives, 1 if it does not say."""
    said = (getattr(layer, name, None) for name in ("out_features", "out_channels", "hidden_size"))
    return next((size for size in said if isinstance(size, int)), 1)


def _kind(traced: Traced, gate: Gate) -> str:
    """What a gate switches off.

    Args:
        traced: The network.
        gate: The gate.
    """
    if gate.size == 1 and holders_of(traced.net)[gate]:
        return "branch"
    if gate.within:
        return "size"
    return "head" if any(gates_heads(traced, use) for use in traced.uses[gate]) else "unit"


def _ruled(group: Group, kind: str, macs: Collection[str]) -> list[str]:
    """The layers that become smaller with the structures of a group.

    Args:
        group: The group.
        kind: What its gates switch off.
        macs: The names of all that is counted.
    """
    if kind == "branch":
        return [name for name in macs if any(f"{name}.".startswith(f"{block}.body.") for block in group.written)]
    return [name for name in dict.fromkeys((*group.written, *group.read)) if name in macs]
