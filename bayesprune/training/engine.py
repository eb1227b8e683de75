"""Where and how training computes: device, number format, compilation, and how many processes share a batch."""

from __future__ import annotations

import atexit
import gc
import hashlib
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bayesprune.arguments import checked_arguments
from bayesprune.errors import RankError
from bayesprune.layers import Gate
from bayesprune.methods.protocol import Model
from bayesprune.training.compiled import BranchCompiler
from bayesprune.training.devices import check_device, check_precision, check_strategy, fabric, memory_errors
from bayesprune.training.layout import has_strided_pointwise

if TYPE_CHECKING:
    from bayesprune.training.fsdp import Shards

__all__ = ["Engine", "memory_errors"]


class Engine:
    """Where and how training computes; Lightning Fabric does the work.

    Started by torchrun, the engine joins the other processes (gloo on the CPU, nccl on CUDA), each of which computes
    its part of every batch with its own copy of the network; otherwise it is the only process. What processes must
    share beyond gradients goes through `mean`, `agree`, `gather` and `broadcast`, which all of them must call alike.

    A BatchNorm normalises by the examples that its process holds, so several processes equal one with the whole batch
    only for networks without it; `average_statistics` joins their running statistics.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:NUMBER`` or ``mps``. With several processes ``cuda`` is each one's own GPU.
        precision: ``float32``, or ``bf16``: matrix products and convolutions in bfloat16, while weights, θ and their
            gradients stay float32.
        compile: Whether branches are compiled; see `BranchCompiler`.
        strategy: What several processes share besides every batch: ``auto`` nothing; ``fsdp`` the weights too, their
            gradients and the optimiser's state, for networks whose training outgrows one GPU. One process shares
            nothing.

    Attributes:
        device: The device of this process.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        is_main: Whether this is process 0, which writes files.
        divides: Whether processes divide the weights among them.
        memory_format: How images and the weights of convolutions are laid out: channels last on CUDA, unless weights
            are divided; on the CPU as they come, but contiguous from the first network on that torch would write out
            of bounds for otherwise, see `layout`.

    Raises:
        ConfigError: for a device that is not there, a number format that it lacks, devices that do not suit the
            processes, or a strategy that does not suit them.

    Examples:
        >>> engine = Engine("cpu")
        >>> engine.world_size, engine.is_main
        (1, True)
    """

    @checked_arguments
    def __init__(
        self,
        device: str | torch.device = "cpu",
        *,
        precision: str = "float32",
        compile: bool = False,
        strategy: str = "auto",
    ):
        place = check_device(device)
        check_precision(precision, place)
        check_strategy(strategy, place, compile)
        self.precision = precision
        self._fabric = fabric(place, precision)
        self.device, self.rank, self.world_size = place, 0, 1
        if self._fabric is not None:
            self._fabric.launch()
            self.device = self._fabric.device
            self.rank, self.world_size = self._fabric.global_rank, self._fabric.world_size
            if self.world_size > 1 and self.device.type == "cpu":  # on CUDA Fabric sees to it
                atexit.register(_disconnect)
        self.is_main = self.rank == 0
        self.divides = strategy == "fsdp" and self.world_size > 1
        self._shards: Shards | None = None
        last = self.device.type == "cuda" and not self.divides  # FSDP gathers weights in the order of their entries
        self.memory_format = torch.channels_last if last else torch.preserve_format
        self._compiler = BranchCompiler() if compile else None

    # one process ---------------------------------------------------------------------------------------------------

    def place(self, net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Bring ``net`` to the device and into its memory layout, in place; for a smaller network, again.

        Args:
            net: The network.
            optimizer: The optimiser of its weights, whose state is laid out as they are: fused optimisers read both in
                the order of memory, and give wrong steps where these differ.
        """
        net.to(self.device)
        if self.device.type == "cpu" and has_strided_pointwise(net):
            self.memory_format = torch.contiguous_format
        if self.memory_format != torch.preserve_format:
            for module in net.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    for weight in module.parameters(recurse=False):  # of Normal weights means and log scales
                        if weight.dim() == 4:
                            weight.data = weight.data.to(self.device, memory_format=self.memory_format)
        if optimizer is not None:
            _align(optimizer)
        if self._compiler is not None:
            self._compiler.prepare(net)

    def input(self, x: Tensor) -> Tensor:
        """``x`` on the device; the transfer overlaps with computing if ``x`` lies in pinned memory."""
        if x.dim() != 4:
            return x.to(self.device, non_blocking=True)
        return x.to(self.device, non_blocking=True, memory_format=self.memory_format)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes: number formats operation by operation for bf16, nothing for float32."""
        return nullcontext() if self._fabric is None else self._fabric.autocast()

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, averaged over processes for the parameters of a network that was wrapped."""
        if self._fabric is None:
            loss.backward()
        else:
            self._fabric.backward(loss)

    def describe(self) -> dict[str, Any]:
        """What computed, for the record of a run."""
        cuda = self.device.type == "cuda"
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name(self.device) if cuda else platform.machine(),
            "precision": self.precision,
            "compiled": self._compiler is not None and not self._compiler.failed,
            "processes": self.world_size,
        }

    # several processes ---------------------------------------------------------------------------------------------

    def wrap(self, net: Model) -> Callable[..., Any]:
        """What to call instead of ``net`` in the pass whose gradients count; for a smaller network, again.

        With one process it is ``net``; so it is where weights are divided, since `sharded` sees to it all. With
        several that are not divided, each backward pass averages the gradients of all weights, every process weighing
        the same. Weights that no process used, those of a branch that was left out, get no gradient, so that an
        optimiser passes over them. θ and buffers are left alone: the gates' parameters share the storage of one vector
        whose gradient `mean` averages. All weights start as process 0 has them.
        """
        frozen = not any(parameter.requires_grad for parameter in net.weights().values())
        if self._fabric is None or self.world_size == 1 or self.divides or frozen:
            return net
        names = ["theta", *(f"{name}.theta" for name, module in net.named_modules() if isinstance(module, Gate))]
        names += [name for name, _ in net.named_buffers()]
        names += [name for name, _ in net.named_parameters() if name.startswith("likelihood.")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, names)
        return self._fabric.strategy.setup_module(net)

    @contextmanager
    def sharded(self, net: Model, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Within the context every process holds only its part of each weight, if processes divide them.

        Training steps are taken as ever. Whatever copies, follows, saves or loads the network must be within `whole` or
        after the context. After an exception the network is left as it is, since other processes may not have met it.

        Args:
            net: The network; all weights start as process 0 has them.
            optimizer: The optimiser of its weights.

        Raises:
            ConfigError: for a weight that cannot be divided.
        """
        if not self.divides:
            yield
            return
        from bayesprune.training.fsdp import Shards  # slow to import

        self._shards = Shards(net, optimizer)
        try:
            yield
            self._shards.gather()
        finally:
            self._shards = None

    @contextmanager
    def whole(self, read_only: bool = False) -> Iterator[None]:
        """Within the context, inside that of `sharded`, every process holds the whole network again.

        Args:
            read_only: Whether the network is only looked at; then the optimiser keeps its parts, which is cheaper.
        """
        shards = self._shards
        if shards is None:
            yield
        elif read_only:
            shards.fill()
            yield
            shards.resume()
        else:
            shards.gather()
            yield
            shards.divide()

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of ``tensor`` over processes, any shape, without gradient; itself with one process."""
        if self.world_size == 1:
            return tensor
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)  # Fabric's own would wait for the device first
        return total.div_(self.world_size)

    @torch.no_grad()
    def average_statistics(self, net: nn.Module) -> None:
        """Let the running statistics of normalisations be their means over processes, in place.

        They are linear in what the batches bring, so doing this now and then is the same as doing it in every step.
        """
        if self.world_size == 1:
            return
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        buffers = [b for norm in norms for b in norm.buffers(recurse=False) if b.is_floating_point()]
        if not buffers:
            return
        flat = self.mean(torch.cat([b.flatten() for b in buffers]))
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def agree(self, what: str, tensor: Tensor) -> None:
        """Refuse to go on if processes hold different values, to the bit.

        Args:
            what: Name of the values, for the message.
            tensor: The values, any shape.

        Raises:
            RankError: on every process, if they differ in value, shape or dtype.
        """
        if self.world_size == 1:
            return
        digests = self.gather(_digest(tensor))
        others = [str(rank) for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise RankError(
                f"the {self.world_size} processes disagree about {what}: {', '.join(others)} differs from 0. Every "
                "process must build the same network and settings from the same seed, and run the same versions of "
                "bayesprune and PyTorch on the same kind of device"
            )

    def gather(self, value: object) -> list[Any]:
        """``value`` (tensors on the CPU and plain values) of every process, in their order, on every process."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """``value`` (tensors on the CPU and plain values) of process 0, on every process."""
        return value if self._fabric is None else self._fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self._fabric is not None:
            self._fabric.barrier()


def _disconnect() -> None:
    """Let the threads of gloo end before the process does, which is aborted otherwise, now and then.

    They end with the last reference to the group; a network that was wrapped holds one, in cycles.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


def _digest(tensor: Tensor) -> str:
    """A fingerprint of dtype, shape and bits."""
    value = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{value.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _align(optimizer: torch.optim.Optimizer) -> None:
    """Lay state tensors of the shape of their parameter out in memory as the parameter is."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
