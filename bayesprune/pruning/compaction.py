"""The plain, smaller PyTorch network that a gated network has become."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, fx, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError
from bayesprune.graph import Traced, check_additions, gates_of, trace
from bayesprune.graph.memory import leaves_traces
from bayesprune.layers import Gate, GatedLayer, RecurrentLayer
from bayesprune.layers.rate import DropoutRate
from bayesprune.pruning.fuse import fold_batch_norms, fuse_linear_maps
from bayesprune.pruning.lowering import lower_gate, lower_rate, lower_recurrent, plain_layer
from bayesprune.pruning.redundant import drop_redundant
from bayesprune.pruning.shrinking import kept_gates, shrink
from bayesprune.pruning.zeros import write_zeros


def gated_network(model: nn.Module) -> nn.Module:
    """What the method ``gated_network`` of ``model`` gives (it is a `BayesianNet`), or ``model`` itself."""
    inner = getattr(model, "gated_network", None)
    return inner() if callable(inner) else model


@checked_arguments
def compact(
    model: nn.Module,
    *,
    posterior: bool = False,
    fold_norms: bool = False,
    round_to: int = 1,
    example_input: Any = None,
) -> nn.Module:
    """Remove every structure whose gate is off (θ ≤ ½) and every gate, leaving a plain PyTorch network.

    Its outputs are those of the gated network in eval mode (which uses the mode of its gates and the means of Gaussian
    slabs), up to rounding. ``model`` is not touched. Functions called with ``training=self.training`` are those of eval
    mode. A branch that is off is left out of a sum under the assumption that it has the shape of what it is added to.

    What removal leaves is simplified where values stay the same in either mode and nothing costs more. A ReLU of a ReLU
    goes, and so does every ``torch.nn.Identity``. Linear maps that follow one another become one (the by-passes of
    branches that are off, say), which bears the name of the last one; see `fuse_linear_maps`. All other parameters keep
    their names.

    Args:
        model: A `BayesianNet`, or a gated network.
        posterior: Whether to leave a smaller `BayesianNet` instead, with the gates that are on, their θ, and the
            posterior of the weights that are left, to go on predicting or training with. Nothing is simplified then.
        fold_norms: Whether to fold BatchNorms as well, each into the layer before it: for inference, as they then are
            as in eval mode for good.
        round_to: Of what widths are to be multiples, 8, say, where that is what a device computes in. So many of the
            structures that are off, those of the largest θ, stay as zeros; a layer that has no such multiple of them
            keeps all that it has. What `fit` has removed does not come back.
        example_input: As for `check_gates`; ``None`` for that of the `BayesianNet`, if it was given one.

    Returns:
        A ``torch.fx.GraphModule`` of torch's own modules and functions alone, in the training mode of ``model``; or a
        `BayesianNet`.

    Raises:
        ConfigError: if ``posterior`` is asked of a network that is no `BayesianNet`, or for a multiple that is no whole
            number.
        TraceError: if the forward pass cannot be followed, or if something was put on a module from outside (a hook,
            a parametrisation, ...) that would be lost.
        GateError: for a gate that does not fit what it gates.
    """
    net, round_to = gated_network(model), whole("compact: round_to", round_to)
    check_additions(net)
    check_additions(model)
    off = {name: gate.mode().detach().cpu() == 0 for name, gate in gates_of(net).items()}
    example = getattr(model, "example_input", None) if example_input is None else example_input
    smaller, index = shrink(net, off, may_empty=True, round_to=round_to, example_input=example)
    if posterior:
        return _smaller_posterior(model, smaller, kept_gates(net, index))
    modes = {name: module.training for name, module in smaller.named_modules()}
    traced = trace(smaller.eval())
    write_zeros(traced)
    for node, module in [(node, traced.module(node)) for node in traced.graph.nodes]:
        if isinstance(module, Gate):
            lower_gate(traced, node, module)
        elif isinstance(module, GatedLayer):
            smaller.set_submodule(str(node.target), plain_layer(module))
        elif isinstance(module, RecurrentLayer):
            lower_recurrent(traced, node, module)
        elif isinstance(module, DropoutRate):
            lower_rate(traced, node)
    plain = fx.GraphModule(smaller, traced.graph, class_name="CompactNet")
    rest = Traced(plain, plain.graph, traced.fixed)
    plain.graph.eliminate_dead_code(lambda node: leaves_traces(rest, node))
    drop_redundant(rest)
    if fold_norms:
        fold_batch_norms(rest)
    fuse_linear_maps(rest)
    plain = fx.GraphModule(plain, plain.graph, class_name="CompactNet")  # of the modules that are left, in their order
    for name, part in plain.named_modules():
        part.training = modes.get(name, modes[""])
    return plain


def _smaller_posterior(model: Any, smaller: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """A copy of a `BayesianNet` that goes on with the gated network ``smaller``.

    Args:
        model: The `BayesianNet`.
        smaller: What its network is from now on.
        kept: By gate name, which structures are left.
    """
    if not hasattr(model, "replace"):
        raise ConfigError(
            f"compact: posterior=True needs a BayesianNet, got a {type(model).__name__}; wrap the network: "
            "BayesianNet(net, ...)"
        )
    small = copy.deepcopy(model)
    small.replace(smaller, kept)
    return small.train(model.training)
