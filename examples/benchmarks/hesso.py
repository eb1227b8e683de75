"""A second peer: pruning while training by HESSO, the optimiser of Only-Train-Once.

HESSO (Chen et al. 2024, arXiv 2409.09085) scores groups of weights as training goes on, takes the least important ones
period by period, shrinks them to 0 step by step and holds them there; what is 0 is cut out in the end.

Two things of `only_train_once` 3.0.1 do not run where the rest does: its graph needs `torch.onnx._globals`, which newer
torch has not, and its optimiser puts a mask on a GPU whatever the network's device. So groups are found by
Torch-Pruning, the optimiser alone is imported, and its mask stays where the network is. Its own step is plain SGD: here
it is called with learning rate 0 after the step of the optimiser that all pipelines share, and does the rest.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from experiment import TooSmall
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.methods.protocol import Method, Needs
from bayesprune.methods.protocol import Run as Training
from bayesprune.schema import record

MISSING = "hesso is left out: it needs Torch-Pruning and Only-Train-Once; pip install 'bayesprune[bench]'"
START, LAST = 0.1, 0.6
"""Over which part of the run all groups would go; it stops at the first period after which few enough are left."""
PERIODS = 50
"""In how many periods all groups would go."""
KEPT = (
    *("num_steps", "curr_pruning_period", "pruning_periods", "target_num_redundant_groups", "curr_num_zero_groups"),
    *("pruned_group_idxes", "important_idxes", "pruned_idxes", "active_redundant_idxes"),
)
"""What the optimiser goes by, numbers and lists of them."""


def available() -> bool:
    """Whether both libraries are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch_pruning", "only_train_once"))


class Hesso(Method):
    """Groups of channels go while the network trains, until it takes few enough multiply-adds.

    Args:
        macs: Multiply-adds of one example to go down to.
    """

    name: ClassVar[str] = "hesso"

    def __init__(self, macs: int):
        super().__init__()
        self.macs = macs

    def setup(self, run: Training) -> Needs:
        """Find the groups."""
        steps = run.epochs * run.steps_per_epoch
        groups = [
            {
                **{"id": place, "num_groups": size, "is_prunable": True, "is_auxiliary": False, "auxiliary_ngs": []},
                **{"params": params, "p_names": [str(n) for n in range(len(params))], "p_transform": [2] * len(params)},
            }
            for place, (_, size, params) in enumerate(_groups(run.net.net, run.example))
        ]
        self.optimizer = _optimizer(run.example.device)(
            groups,
            lr=0.0,
            target_group_sparsity=1.0,
            start_pruning_step=int(START * steps),
            pruning_steps=max(PERIODS, int((LAST - START) * steps)),
            pruning_periods=PERIODS,
        )
        return Needs()

    def stepped(self, run: Training) -> None:
        """Shrink what is to go, and stop once that is enough."""
        before = self.optimizer.curr_num_zero_groups
        self.optimizer.step()
        done = self.optimizer.curr_pruning_period >= self.optimizer.pruning_periods
        if not done and self.optimizer.curr_num_zero_groups > before:
            left = bp.cost(without_zeros(run.net.net, run.example), run.example).macs
            if left <= self.macs:
                self.optimizer.pruning_periods = self.optimizer.curr_pruning_period

    def state(self) -> dict[str, Any]:
        """What the optimiser goes by."""
        return {name: copy.deepcopy(getattr(self.optimizer, name)) for name in KEPT}

    def check(self, state: Mapping[str, Any], gates: int) -> None:
        """See `Method.check`."""
        record(dict.fromkeys(KEPT, lambda value, where: None))(state, "method")

    def load(self, state: Mapping[str, Any], run: Training) -> None:
        """See `Method.load`."""
        vars(self.optimizer).update(state)
        for group in self.optimizer.param_groups:
            group["active_redundant_bool"] = torch.zeros(group["num_groups"], dtype=torch.bool)
            group["active_redundant_bool"][state["active_redundant_idxes"][group["id"]]] = True


def pruned(net: nn.Module, example: Tensor, macs: int) -> nn.Module:
    """A copy of a network that `Hesso` trained, without the channels that are 0.

    Args:
        net: The network.
        example: Inputs, shape ``(1, ...)``, where it is.
        macs: Multiply-adds of one example that it was to go down to.

    Raises:
        TooSmall: if it did not get there.
    """
    smaller = without_zeros(net, example)
    if bp.cost(smaller, example).macs > macs:
        raise TooSmall(f"hesso is left out: the run was too short to go down to {macs} multiply-adds")
    return smaller


def without_zeros(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a network without the channels whose group of weights is 0, but for one of each layer."""
    import torch_pruning as tp  # optional

    smaller = copy.deepcopy(net)
    zeros = {}
    with torch.enable_grad():  # which Torch-Pruning finds groups by
        groups = list(_groups(smaller, example))
        graph = tp.DependencyGraph().build_dependency(smaller, example)
    for layer, size, params in groups:
        norm = torch.stack([p.detach().reshape(size, -1).norm(dim=1) for p in params]).sum(0)
        zeros[layer] = (norm == 0).nonzero().flatten().tolist()[: size - 1]
    for layer, indices in zeros.items():
        if indices:
            cut = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
            graph.get_pruning_group(layer, cut, idxs=indices).prune()
    return smaller


def _groups(net: nn.Module, example: Tensor) -> Iterator[tuple[nn.Module, int, list[nn.Parameter]]]:
    """What writes the same channels, but the outputs: a layer, how many there are, and parameters, channels first."""
    import torch_pruning as tp  # optional

    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    graph = tp.DependencyGraph().build_dependency(net, example)
    for group in graph.get_all_groups(ignored_layers=[head], root_module_types=[nn.Conv2d, nn.Linear]):
        writers = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        params = {id(p): p for writer in writers for p in writer.parameters()}
        yield group[0].dep.target.module, len(group[0].idxs), list(params.values())


def _optimizer(device: torch.device) -> type[torch.optim.Optimizer]:
    """HESSO for a network on a device, imported without the rest of its package."""
    package = importlib.util.module_from_spec(importlib.util.find_spec("only_train_once"))
    unused = ModuleType("imp")  # which it imports, and Python 3.12 has no more
    with patch.dict(sys.modules, only_train_once=package, imp=unused):
        HESSO = importlib.import_module("only_train_once.optimizer.hesso").HESSO

    class OnDevice(HESSO):
        """HESSO whose mask stays on the device."""

        def identify_redundant_groups(self) -> None:
            with patch.object(Tensor, "cuda", lambda mask: mask.to(device)):
                super().identify_redundant_groups()

    return OnDevice
