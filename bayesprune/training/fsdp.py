"""A network whose weights are divided among processes while it takes steps (FSDP).

This is for those whose weights, gradients and moments outgrow one device while a pass of it fits: each process then
holds its part of them. It is tested against training on one process, to rounding, in
``tests/training/test_sharded.py``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from bayesprune.errors import ConfigError
from bayesprune.graph import block_graph
from bayesprune.infer.gated import GatedNet
from bayesprune.layers import Gate, Residual

Convert = Callable[[object, nn.Parameter, nn.Parameter], object]


class Shards:
    """The weights of a network and the state of their optimiser, divided among all processes (Zhao et al. 2023, FSDP).

    Between `divide` and `gather` the network computes with a copy of its modules to which PyTorch's ``fully_shard`` is
    applied: every process holds its part of each weight, and all of a branch or layer only while that is computed.
    Backward passes average the gradients over processes; weights that no process used get none. θ and buffers are not
    divided: both forms of the network share them.

    Args:
        net: The network, whole and on its device.
        optimizer: The optimiser of its weights.

    Raises:
        ConfigError: for a weight without dimensions, which cannot be divided.
    """

    def __init__(self, net: GatedNet, optimizer: torch.optim.Optimizer):
        self.net, self.optimizer = net, optimizer
        self.divide()

    def divide(self) -> None:
        """Let network and optimiser go on with this process' parts; all weights become those of process 0."""
        whole, self.plain = self.net.weights(), self.net.net
        for name, weight in whole.items():
            if weight.dim() == 0:
                raise ConfigError(
                    f"Engine: strategy 'fsdp' cannot divide the weight {name!r}, which is a single number without "
                    "dimensions; give it the shape (1,), or take strategy 'auto'"
                )
            weight.data = weight.data.contiguous()
            torch.distributed.broadcast(weight.data, 0)
        mesh = init_device_mesh(self.net.theta.device.type, (torch.distributed.get_world_size(),))
        self.parted = _parted(self.plain, mesh)
        self.resume()
        parts = self.net.weights()
        _hand_over(self.optimizer, {weight: parts[name] for name, weight in whole.items()}, _divide)

    def gather(self) -> None:
        """Let the network have its own modules and whole weights again, and the optimiser too.

        The optimiser's state is whole in the memory of the host, where it takes none of the device's.
        """
        parts = self._parts()
        self.fill()
        whole = self.net.weights()
        _hand_over(self.optimizer, {part: whole[name] for name, part in parts.items()}, _collect)

    def fill(self) -> None:
        """Let the network have its own modules and whole weights, only to read; `resume` goes back to the parts."""
        parts = self._parts()
        _copy_modes(self.parted, self.plain)
        self.net.exchange(self.plain)
        for name, weight in self.net.weights().items():
            weight.data = parts[name].detach().full_tensor()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Compute with the parts as they are; of the whole weights the network's own modules keep only the shapes."""
        for weight in self.net.weights().values():
            weight.data = weight.data.new_zeros(()).expand(weight.shape)
            weight.grad = None
        _copy_modes(self.plain, self.parted)
        self.net.exchange(self.parted, self.plain)

    def _parts(self) -> dict[str, nn.Parameter]:
        """The parts, also of weights that a pass without gradient has left whole."""
        self.parted.reshard()  # type: ignore[operator]
        return self.net.weights()


def _parted(plain: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """A copy of a network whose weights are divided; gates and buffers are not copied."""
    gates = [module for module in plain.modules() if isinstance(module, Gate)]
    shared = [*gates, *plain.parameters(), *plain.buffers()]
    net = copy.deepcopy(plain, {id(thing): thing for thing in shared})
    units = _units(plain)
    thetas = [gate._parameters.pop("theta") for gate in gates]  # what fully_shard does not see it leaves alone
    try:
        for name in units:
            fully_shard(net.get_submodule(name), mesh=mesh)
        fully_shard(net, mesh=mesh)
    finally:
        for gate, theta in zip(gates, thetas, strict=True):
            gate._parameters["theta"] = theta
    return net


def _units(net: nn.Module) -> list[str]:
    """Names of the modules whose weights are gathered together: branches, by-passes, and layers outside of them.

    Weights that several modules use, or that are used directly, belong to the network as a whole; so they are there
    from its forward pass to the end of its backward pass.
    """
    nodes = block_graph(net).nodes
    names: dict[str, nn.Module] = {}
    for name in (str(node.target) for node in nodes if node.op == "call_module"):
        module = net.get_submodule(name)
        if isinstance(module, Residual) and type(module).forward is Residual.forward:
            names |= {f"{name}.body": module.body, f"{name}.shortcut": module.shortcut}
        else:
            names[name] = module
    direct = {str(node.target) for node in nodes if node.op == "get_attr"}
    users = Counter(id(p) for module in names.values() for p in module.parameters())
    users.update(id(p) for name, p in net.named_parameters() if name in direct)
    return [
        name
        for name, module in names.items()
        if not isinstance(module, Gate)
        and any(True for _ in module.parameters())
        and all(users[id(p)] == 1 for p in module.parameters())
    ]


def _hand_over(
    optimizer: torch.optim.Optimizer, follows: Mapping[nn.Parameter, nn.Parameter], convert: Convert
) -> None:
    """Let ``optimizer`` go on with other parameters, in place of the present ones, its state converted."""
    for group in optimizer.param_groups:
        for old in group["params"]:
            state = optimizer.state.pop(old, {})
            if state:
                new = follows[old]
                optimizer.state[new] = {key: convert(value, old, new) for key, value in state.items()}
        group["params"] = [follows[old] for old in group["params"]]


def _divide(value: object, whole: nn.Parameter, part: nn.Parameter) -> object:
    """This process' part of what belongs to each entry of a weight."""
    if not isinstance(value, Tensor) or value.shape != whole.shape:
        return value
    assert isinstance(part, DTensor)
    return distribute_tensor(value.to(part.device).contiguous(), part.device_mesh, part.placements)


def _collect(value: object, part: nn.Parameter, whole: nn.Parameter) -> object:
    """The whole of what `_divide` divided, on the host."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _copy_modes(source: nn.Module, target: nn.Module) -> None:
    """Let the modules of ``target`` be in training or not as those of ``source`` are."""
    for mine, other in zip(source.modules(), target.modules(), strict=True):
        other.training = mine.training
