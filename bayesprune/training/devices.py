"""Which device, number format and processes a run asks for, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from bayesprune.errors import ConfigError, DeviceMemoryError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("float32", "bf16")
STRATEGIES = ("auto", "fsdp")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What torchrun tells every process that it starts."""
OUT_OF_MEMORY = (
    "can't allocate memory",
    "DefaultCPUAllocator",
    "MPS backend out of memory",
    "could not create a primitive",  # oneDNN, which says no more
    "could not create a memory",
)
"""What the messages of allocators that raise a plain RuntimeError contain."""


def check_device(name: str | torch.device) -> torch.device:
    """The device called ``name``.

    Raises:
        ConfigError: if there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; give cpu, cuda, cuda:NUMBER or mps") from None
    if device.type not in DEVICES:
        raise ConfigError(f"--device {name}: expected cpu, cuda, cuda:NUMBER or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"--device {name}: this machine or this build of PyTorch has no Apple GPU; try --device cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"there are {count} (cuda:0 to cuda:{count - 1})" if count else "there is none"
            raise ConfigError(
                f"--device {name}: PyTorch sees no such CUDA device, {found}; try --device cpu, or a build of PyTorch "
                "for your driver"
            )
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a number format in which ``device`` cannot compute.

    Args:
        precision: ``"float32"``, or ``"bf16"`` for matrix products and convolutions in bfloat16, weights in float32.
        device: An existing device.

    Raises:
        ConfigError: for an unknown format, or bfloat16 on a device without it.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and not _computes_bfloat16(device):
        raise ConfigError(f"--precision bf16: {device} does not compute in bfloat16; try --precision float32")


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        try:
            torch.zeros(1, dtype=torch.bfloat16, device=device)
        except (TypeError, RuntimeError):  # macOS before version 14
            return False
    return True


def check_strategy(strategy: str, device: torch.device, compiled: bool) -> None:
    """Refuse a strategy with which nothing can be computed.

    Args:
        strategy: ``"auto"``, or ``"fsdp"`` for weights that processes divide among them.
        device: An existing device.
        compiled: Whether branches are to be compiled.

    Raises:
        ConfigError: for an unknown strategy, or for ``"fsdp"`` with compiled branches, on an Apple GPU, or on the CPU
            with a version of PyTorch that has it for GPUs alone.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"--strategy {strategy}: expected one of {', '.join(STRATEGIES)}")
    if strategy == "auto":
        return
    if compiled:
        raise ConfigError("--strategy fsdp does not go with --compile; leave one of them out")
    if device.type == "mps" or (device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event")):
        raise ConfigError(
            f"--strategy fsdp: PyTorch {torch.__version__} cannot divide weights on {device.type}; take --device cuda "
            "or --strategy auto" + (", or a newer PyTorch" if device.type == "cpu" else "")
        )


def fabric(device: torch.device, precision: str) -> Fabric | None:
    """Lightning Fabric for this process: one of those that torchrun started, or the only one; not yet launched.

    ``None`` for one process that computes in float32, which has nothing to ask of it.

    Args:
        device: Where to compute.
        precision: In which number format.

    Raises:
        ConfigError: for a device that several processes cannot share.
    """
    processes = int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1
    if processes == 1 and precision == "float32":
        return None
    # Importing it takes as long as torch itself and wraps torch.compile, which importing bayesprune must not do.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy

    plugin = MixedPrecision("bf16-mixed", device.type) if precision == "bf16" else Precision()
    if processes == 1:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return Fabric(
            accelerator=device.type,
            devices=[device.index] if device.type == "cuda" else 1,
            strategy=SingleDeviceStrategy(device),
            plugins=[plugin, LightningEnvironment()],
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    _check_processes(device, here)
    return Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=processes // here,
        strategy=DDPStrategy(find_unused_parameters=True),
        plugins=[plugin, TorchElasticEnvironment()],
    )


def _check_processes(device: torch.device, here: int) -> None:
    """Refuse devices that do not suit ``here`` processes on this machine."""
    if device.type == "mps":
        raise ConfigError("--device mps: one process only; start bayesprune without torchrun, or take cpu or cuda")
    if device.type == "cuda":
        count, own = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if here > count:
            raise ConfigError(
                f"--device cuda: torchrun started {here} processes here, for {count} GPUs; each needs its own, so give "
                f"torchrun --nproc-per-node {count}, or take --device cpu"
            )
        if device.index not in (None, own):
            raise ConfigError(
                f"--device {device}: process {own} of {here} on this machine computes on cuda:{own}; give --device "
                "cuda, and leave the network on the CPU"
            )


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn what an allocator raises into an error that says what to try.

    Args:
        batch_size: Examples of the batch that is computed within the context.

    Raises:
        DeviceMemoryError: if memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        smaller = max(1, batch_size // 2)
        advice = f"try --batch-size {smaller}" if smaller < batch_size else "a batch cannot be smaller"
        raise DeviceMemoryError(
            f"a batch of {batch_size} examples does not fit into memory; {advice}, --precision bf16, or a smaller "
            f"network ({first_line(error)})"
        ) from error


def is_memory_error(error: BaseException) -> bool:
    """Whether memory has run out, that of the host or of a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Within the context, numbers too small for full precision are 0 on this thread, as they are on a GPU.

    The moments of weights that have nothing left to do decay towards 0; arithmetic on numbers that small takes a
    hundred times as long.
    """
    tiny = torch.tensor(torch.finfo(torch.float32).tiny)
    was_on = bool(tiny / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)
