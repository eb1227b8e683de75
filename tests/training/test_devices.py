"""Devices, number formats and strategies that are refused, and memory that runs out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from bayesprune.errors import BayesPruneError, ConfigError, DeviceMemoryError, RankError
from bayesprune.training.devices import check_device, check_precision, check_strategy
from bayesprune.training.engine import Engine, memory_errors


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, bf16: bool = True) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.mark.parametrize(
    ("gpus", "options", "message"),
    [
        (0, {"device": "cuda"}, r"--device cuda: PyTorch sees no such CUDA device, there is none; try --device cpu"),
        (2, {"device": "cuda:2"}, r"--device cuda:2: .* there are 2 \(cuda:0 to cuda:1\); try --device cpu"),
        (
            0,
            {"device": "mps"},
            "--device mps: this machine or this build of PyTorch has no Apple GPU; try --device cpu",
        ),
        (0, {"device": "tpu"}, "--device tpu: unknown; give cpu, cuda, cuda:NUMBER or mps"),
        (0, {"device": "meta"}, "--device meta: expected cpu, cuda, cuda:NUMBER or mps"),
        (0, {"precision": "float16"}, "--precision float16: expected one of float32, bf16"),
        (0, {"strategy": "ddp"}, "--strategy ddp: expected one of auto, fsdp"),
        (0, {"strategy": "fsdp", "compile": True}, "--strategy fsdp does not go with --compile; leave one of them out"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, gpus: int, options: dict[str, str], message: str) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(ConfigError, match=message):
        Engine(**options)


def test_bfloat16_where_it_would_only_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device", lambda device: warnings.catch_warnings())
    for bf16 in (True, False):
        pretend(monkeypatch, 1, bf16)
        if bf16:
            check_precision("bf16", torch.device("cuda"))
        else:
            with pytest.raises(
                ConfigError, match="--precision bf16: cuda does not compute in bfloat16; try --precision f"
            ):
                check_precision("bf16", torch.device("cuda"))


@pytest.mark.parametrize(
    ("device", "advice"),
    [("cpu", "or --strategy auto, or a newer PyTorch$"), ("mps", "or --strategy auto$")],
)
def test_dividing_weights_where_pytorch_cannot(monkeypatch: pytest.MonkeyPatch, device: str, advice: str) -> None:
    monkeypatch.setattr("torch.cpu.Stream", object)
    check_strategy("auto", torch.device(device), True)
    check_strategy("fsdp", torch.device("cuda"), False)
    with pytest.raises(ConfigError, match=rf"cannot divide weights on {device}; .*{advice}"):
        check_strategy("fsdp", torch.device(device), False)


def test_bfloat16_on_an_old_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr("torch.zeros", refuse)
    with pytest.raises(ConfigError, match="mps does not compute in bfloat16"):
        check_precision("bf16", torch.device("mps"))


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (1, "cuda", "torchrun started 2 processes here, for 1 GPUs; .* --nproc-per-node 1, or take --device cpu"),
        (2, "cuda:0", "--device cuda:0: process 1 of 2 on this machine computes on cuda:1; give --device cuda, and"),
        (0, "mps", "--device mps: one process only; start bayesprune without torchrun"),
    ],
)
def test_devices_that_do_not_suit_the_processes(monkeypatch, gpus: int, device: str, message: str) -> None:
    pretend(monkeypatch, gpus)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match=message):
        Engine(device)


def test_devices_that_are_there() -> None:
    assert check_device("cpu") == check_device(torch.device("cpu")) == Engine().device == torch.device("cpu")


@pytest.mark.parametrize(("batch", "advice"), [(64, "try --batch-size 32,"), (3, "try --batch-size 1,")])
def test_memory_that_runs_out_on_the_cpu(batch: int, advice: str) -> None:
    """A real failure of the allocator: 2^60 bytes."""
    message = f"a batch of {batch} examples does not fit .*; {advice}"
    with pytest.raises(DeviceMemoryError, match=message) as caught, memory_errors(batch):
        torch.empty(2**60, dtype=torch.uint8)
    assert "allocate memory" in str(caught.value.__cause__)


def test_memory_that_runs_out_on_a_gpu() -> None:
    message = r"a batch of 1 examples does not fit .* cannot be smaller, .*Tried to allocate 20.00 GiB\.\)$"
    with pytest.raises(DeviceMemoryError, match=message), memory_errors(1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors(8):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize("kind", [DeviceMemoryError, RankError])
def test_kinds_of_errors(kind: type[Exception]) -> None:
    assert issubclass(kind, BayesPruneError) and issubclass(kind, RuntimeError)
