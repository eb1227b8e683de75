"""A smaller network of the same modules: what gates silence is cut out of every layer that holds a part of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError, GateError
from bayesprune.graph import Analysis, gates_of, trace
from bayesprune.graph.rounding import round_up
from bayesprune.layers import Gate, Residual, normal_layers
from bayesprune.layers.residual import Bypass
from bayesprune.pruning.cut import Cutter
from bayesprune.types import IndexMap


@checked_arguments
def shrink(
    net: nn.Module,
    off: Mapping[str, Tensor],
    *,
    may_empty: bool = False,
    round_to: int = 1,
    example_input: Any = None,
) -> tuple[nn.Module, IndexMap]:
    """Remove what gates silence. The outputs stay what they are with these gates off; ``net`` is not touched.

    Modules keep their names and classes, so that the forward pass of user modules still works. A `layers.Residual`
    whose gate is off becomes a ``torch.nn.Sequential`` of its ``shortcut``. A gate that is off where its entry cannot
    go (it is added to something else, say) stays, with θ = 0. Outputs are equal in eval mode; in training mode too,
    unless a constant other than 0 was folded through a BatchNorm.

    Args:
        net: Gated network.
        off: By gate name (see `gates_of`), which of its gates to switch off, shape ``(size,)``, bool. Names may be
            missing.
        may_empty: Whether a layer may lose all of its inputs; it then keeps one, which is zero. By default that is
            refused.
        round_to: Of what widths are to be multiples: layers keep so many of the structures that are off, as zeros.
        example_input: As for `check_gates`.

    Returns:
        The smaller network, disconnected from any `Draw`, and the index map from the old tensors to its own.

    Raises:
        ConfigError: for a name that is no gate, a mask of another shape, or a multiple that is no whole number.
        GateError: if a layer would be left without input.
        TraceError: if the forward pass cannot be followed.
    """
    masks, round_to = _checked(net, off), whole("shrink: round_to", round_to)
    smaller = copy.deepcopy(net)
    _drop_branches(smaller, masks)
    gates = gates_of(smaller)
    for gate in gates.values():
        gate.draw, gate.slot = None, 0
    for layer in normal_layers(smaller).values():
        layer.draw = None
    silent = {gates[name]: mask for name, mask in masks.items() if name in gates and bool(mask.any())}
    if masks and not silent:  # whole branches alone have gone: nothing is constant, so nothing else can go
        return smaller, IndexMap({name: (None,) * tensor.dim() for name, tensor in _tensors(smaller).items()})
    theta = {gate: gate.theta.detach().cpu().clone() for gate in silent}
    _silence(silent)
    cutter, only = Cutter(), None
    while only is None or only:  # one axis after the other
        analysis = Analysis(trace(smaller, example_input), silent, only)
        if analysis.emptied and not may_empty:
            raise GateError(
                f"layer {analysis.emptied[0]!r} would be left without any input if these gates were off; keep at least "
                "one gate before it on, or put the layers in between into a layers.Residual"
            )
        if round_to > 1:
            round_up(analysis, round_to, theta)
        cutter.cut(analysis)
        only = analysis.put_off
    kept = {name: cutter.kept.get(name, (None,) * tensor.dim()) for name, tensor in _tensors(smaller).items()}
    return smaller, IndexMap(kept, cutter.folded)


@checked_arguments
def kept_gates(net: nn.Module, index: IndexMap) -> dict[str, Tensor]:
    """By gate name, which of its entries `shrink` kept, shape ``(left,)``; names that vanished are missing.

    Args:
        net: The network that was cut.
        index: What `shrink` gave with the smaller one.
    """
    kept, names = {}, {gate: name for name, gate in gates_of(net).items()}
    for place, gate in net.named_modules(remove_duplicate=False):  # the first of a gate's places may have gone
        if isinstance(gate, Gate) and f"{place}.theta" in index.kept:
            chosen = index.kept[f"{place}.theta"][0]
            kept[names[gate]] = torch.arange(gate.size) if chosen is None else chosen.cpu()
    return kept


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without the indices of gates that select."""
    selects = {id(module.index) for module in net.modules() if isinstance(module, Gate) and module.index is not None}
    named = [*net.named_parameters(), *net.named_buffers()]
    return {name: tensor for name, tensor in named if id(tensor) not in selects}


def _checked(net: nn.Module, off: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks on the CPU."""
    gates, masks = gates_of(net), {}
    for name, mask in off.items():
        if name not in gates:
            raise ConfigError(
                f"shrink: the network has no gate {name!r}; it has {', '.join(map(repr, gates)) or 'none'}"
            )
        if mask.dtype != torch.bool or mask.shape != (gates[name].size,):
            raise ConfigError(
                f"shrink: the mask of gate {name!r} must be bool of shape ({gates[name].size},), got {mask.dtype} of "
                f"shape {tuple(mask.shape)}"
            )
        masks[name] = mask.detach().cpu()
    return masks


def _drop_branches(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Replace every residual block whose gate is off by its by-pass, which keeps its name ``shortcut``.

    Gates keep their names, even if the module that they were called after is gone.
    """
    gates = gates_of(net)
    off = {gates[name] for name, mask in masks.items() if bool(mask.all())}
    gone = [(name, block) for name, block in net.named_modules() if _is_branch(block) and block.gate in off]
    for name, block in gone:
        bypass = Bypass(block.shortcut)
        bypass.training = block.training
        parent, _, last = name.rpartition(".")
        try:
            net.get_submodule(parent).register_module(last, bypass)
        except AttributeError:  # within a branch that has gone
            continue
    now = {gate: name for name, gate in gates_of(net).items()} if gone else {}
    for name, gate in gates.items():
        if now.get(gate, name) != name:
            gate.label = name


def _is_branch(module: nn.Module) -> bool:
    return isinstance(module, Residual) and type(module).forward is Residual.forward


@torch.no_grad()
def _silence(silent: Mapping[Gate, Tensor]) -> None:
    """Set θ of gates that are off to 0, for those that stay."""
    for gate, mask in silent.items():
        gate.theta[mask.to(gate.theta.device)] = 0.0
