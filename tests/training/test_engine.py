"""The engine in one process: devices, number formats, memory layout, compilation, and what it refuses."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from bayesprune import layers
from bayesprune.errors import BayesPruneError, ConfigError, DeviceMemoryError, RankError
from bayesprune.infer import BatchObjective, BayesianNet, get_estimator
from bayesprune.layers import Residual
from bayesprune.optim import remap_optimizer
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.devices import check_device, check_precision, check_strategy
from bayesprune.training.engine import Engine, memory_errors

COMPILER_NOISE = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 4


def convolutional(blocks: int = 3) -> BayesianNet:
    """Gated channels, then branches of one form."""
    torch.manual_seed(1)
    bodies = [nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.ReLU()) for _ in range(blocks)]
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), layers.Gate(5), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1),
        *map(Residual, bodies), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    return BayesianNet(net, num_data=6)


def loss(engine: Engine, net: BayesianNet, x: Tensor, y: Tensor, xi: Tensor | None = None) -> Tensor:
    with engine.autocast():
        outputs = engine.wrap(net)(engine.input(x), torch.ones(1, net.num_gates) if xi is None else xi, skip=True)
        return net.likelihood.nll(outputs, y).mean()


def gradients(engine: Engine, net: BayesianNet, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    engine.backward(loss(engine, net, x, y))
    return {name: p.grad.clone() for name, p in net.weights().items()}


# what is refused ---------------------------------------------------------------------------------------------------


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


# memory ------------------------------------------------------------------------------------------------------------


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


# one process -------------------------------------------------------------------------------------------------------


def test_one_process_is_itself() -> None:
    engine, net, value = Engine(), convolutional(), torch.ones(3)
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)
    assert engine.wrap(net) is net
    assert engine.mean(value) is value
    assert engine.gather("a") == ["a"] and engine.broadcast("a") == "a"
    engine.agree("anything", value)
    engine.barrier()
    assert not torch.distributed.is_initialized()
    described = engine.describe()
    assert described.pop("device_name")
    assert described == {"device": "cpu", "precision": "float32", "compiled": False, "processes": 1}


def test_statistics_of_one_process_stay() -> None:
    net = nn.BatchNorm1d(3)
    net(torch.randn(8, 3))
    before = copy.deepcopy(net.state_dict())
    Engine().average_statistics(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_importing_bayesprune_does_not_import_fabric() -> None:
    """It takes seconds and wraps torch.compile."""
    code = "import sys, bayesprune, bayesprune.training.engine; assert 'lightning_fabric' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_bfloat16_is_for_products_alone() -> None:
    """Products are computed in bfloat16, 8 bits of mantissa; weights, θ and all gradients are float32."""
    (x, y), plain, mixed = images(), Engine(), Engine(precision="bf16")
    found = {}
    for engine in (plain, mixed):
        net = convolutional()
        engine.place(net)
        seen = []
        net.net[0].register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.dtype))
        objective = BatchObjective(net, engine.input(x), y, module=engine.wrap(net))
        with engine.autocast():
            value = get_estimator("straight_through")(objective, net.theta, torch.ones(6, net.num_gates), net.price)
        engine.backward(value)
        assert net.theta.dtype == net.theta.grad.dtype == value.dtype == torch.float32
        assert {p.dtype for p in net.weights().values()} == {torch.float32}
        found[engine.precision] = torch.cat([net.theta.grad, *(p.grad.flatten() for p in net.weights().values())])
        assert seen == [torch.float32 if engine is plain else torch.bfloat16]
    assert found["bf16"].dtype == torch.float32
    error = (found["bf16"] - found["float32"]).norm() / found["float32"].norm()
    assert 1e-5 < error < 2**-5


# memory layout -----------------------------------------------------------------------------------------------------


@pytest.fixture
def channels_last() -> Engine:
    """An engine that lays tensors out as it does on CUDA."""
    engine = Engine()
    engine.memory_format = torch.channels_last
    return engine


def test_placing_keeps_the_network(channels_last: Engine) -> None:
    net, (x, _) = convolutional(), images()
    before, outputs, theta = dict(net.named_parameters()), net.eval()(x), net.theta
    channels_last.place(net)
    assert net.net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.net[0].weight.is_contiguous()
    assert all(p is before[name] for name, p in net.named_parameters())
    assert net.theta is theta
    with torch.no_grad():
        net.theta[0] = 0.125
    assert any(gate.theta[0] == 0.125 for gate in net.gates())
    laid_out = channels_last.input(x)
    assert laid_out.is_contiguous(memory_format=torch.channels_last) and torch.equal(laid_out, x)
    assert torch.equal(channels_last.input(x[0, 0]), x[0, 0])
    with torch.no_grad():
        net.theta[0] = 0.9
    torch.testing.assert_close(net(laid_out), outputs, rtol=0, atol=1e-6)


OPTIMIZERS = [
    partial(torch.optim.Adam, lr=0.1, fused=True),
    partial(torch.optim.Adam, lr=0.1),
    partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["plain", "channels_last"])
def test_layout_does_not_change_the_steps(make, engine: str, channels_last: Engine) -> None:
    """Two steps, a removal, two steps: a fused optimiser would mix up entries that lie in another order."""
    engines = {"plain": Engine(), "channels_last": channels_last}
    expected, found = (trained(engines[name], make) for name in ("plain", engine))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


def trained(engine: Engine, make: Callable[..., torch.optim.Optimizer]) -> dict[str, Tensor]:
    net, (x, y) = convolutional(), images()
    engine.place(net)
    optimizer = make(net.weights().values())
    for removal in (True, False):
        for _ in range(2):
            gradients(engine, net, x, y)
            optimizer.step()
        if removal:
            smaller, index = shrink(net.net, {"1": torch.arange(5) == 2, "5": torch.tensor([True])})
            old = net.weights()
            net.replace(smaller, kept_gates(net.net, index))
            remap_optimizer(optimizer, old, net.weights(), index)
            engine.place(net, optimizer)
    return {name: p.detach() for name, p in net.weights().items()}


# compilation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Let torch.compile only follow the code and count the graphs that it finds, which is quick."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=counter))
    return counter


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@COMPILER_NOISE
def test_compiled_branches_share_their_code(counter: CompileCounterWithBackend) -> None:
    engine, net, twin, (x, y) = Engine(compile=True), convolutional(), convolutional(), images()
    engine.place(net)
    assert_same(gradients(engine, net, x, y), gradients(Engine(), twin, x, y))
    assert counter.frame_count == 1, "three bodies of one form are compiled once"
    assert_same(gradients(engine, net, x[:4], y[:4]), gradients(Engine(), twin, x[:4], y[:4]))
    assert counter.frame_count == 1, "a smaller batch is computed as written"
    with torch.no_grad():
        torch.testing.assert_close(net(x), twin(x))
    smaller, index = shrink(net.net, {"4": torch.tensor([True])})
    net.replace(smaller, kept_gates(net.net, index))
    assert [block.run for block in net.net.modules() if isinstance(block, Residual)] == [None, None]
    engine.place(net)
    off = torch.ones(1, twin.num_gates)
    off[0, 0] = 0
    twin.zero_grad()
    loss(Engine(), twin, x, y, off).backward()
    expected = {name: p.grad for name, p in twin.weights().items() if p.grad is not None}
    assert_same(gradients(engine, net, x, y), expected)
    assert counter.frame_count == 1, "a copied network uses the code that is there"
    assert engine.describe()["compiled"]


@COMPILER_NOISE
def test_compiled_branches_may_be_skipped(counter: CompileCounterWithBackend) -> None:
    engine, net, (x, y) = Engine(compile=True), convolutional(), images()
    engine.place(net)
    xi = torch.ones(1, net.num_gates)
    xi[0, :2] = torch.tensor([0.0, 1.0])
    engine.backward(loss(engine, net, x, y, xi))
    assert [net.net[k].body[0].weight.grad is None for k in (4, 5, 6)] == [True, False, False]
    assert counter.frame_count == 1


@COMPILER_NOISE
def test_more_forms_of_branches_than_the_compiler_allows_by_default(counter: CompileCounterWithBackend) -> None:
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)) for width in range(1, 13)]
    net = BayesianNet(nn.Sequential(*map(Residual, bodies), nn.Linear(4, 2)), num_data=4)
    twin, x, y = copy.deepcopy(net), torch.randn(4, 4), torch.arange(4) % 2
    engine = Engine(compile=True)
    engine.place(net)
    assert_same(gradients(engine, net, x, y), gradients(Engine(), twin, x, y))
    assert counter.frame_count == 12


@COMPILER_NOISE
def test_compilation_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning; then everything is computed as written."""

    def backend(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend=backend))
    engine, net, (x, y) = Engine(compile=True), convolutional(), images()
    engine.place(net)
    with pytest.warns(UserWarning, match="compilation failed; .* uncompiled, .* no compiler here") as caught:
        found = gradients(engine, net, x, y)
    assert len(caught) == 1
    assert_same(found, gradients(Engine(), convolutional(), x, y))
    assert_same(gradients(engine, net, x, y), found)
    assert not engine.describe()["compiled"]


def test_a_system_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(body: nn.Module, dynamic: bool) -> None:
        raise RuntimeError("torch.compile is not supported on this system")

    monkeypatch.setattr("torch.compile", refuse)
    engine, net = Engine(compile=True), convolutional()
    with pytest.warns(UserWarning, match="compilation failed; .* not supported on this system"):
        engine.place(net)
    engine.place(net)
    assert_same(gradients(engine, net, *images()), gradients(Engine(), convolutional(), *images()))


def test_branches_with_dropout_are_computed_as_written() -> None:
    blocks = [Residual(nn.Sequential(nn.Linear(3, 3), nn.Dropout(rate))) for rate in (0.5, 0.0)]
    Engine(compile=True).place(nn.Sequential(*blocks))
    assert blocks[0].run is None and blocks[1].run is not None


@pytest.mark.gpu
def test_cuda_trains_as_the_cpu_does() -> None:
    found = trained(Engine("cuda"), OPTIMIZERS[0])
    for name, value in trained(Engine(), OPTIMIZERS[0]).items():
        torch.testing.assert_close(found[name].cpu(), value, rtol=0, atol=1e-2, msg=name)
