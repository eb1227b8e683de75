"""Times of two networks side by side: taken in turn, in blocks, so that a busy machine slows both alike."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from experiment import Experiment
from step import Repeat
from torch import nn

import bayesprune as bp
from bayesprune.data.spans import Span
from bayesprune.infer.plain import PlainNet
from bayesprune.methods.none import Plain
from bayesprune.methods.protocol import Batch
from bayesprune.methods.svi.method import SVI
from bayesprune.training.trainer import Trainer


@dataclass(frozen=True)
class Pair:
    """Times of the same thing for a network and for the one it is compared with.

    Attributes:
        reference_ms: Median over blocks of the mean milliseconds of the reference.
        ms: The same of the network.
        ratio: Median over blocks of their ratio.
    """

    reference_ms: float
    ms: float
    ratio: float


def in_turn(reference: Callable[[], object], other: Callable[[], object], blocks: int, calls: int) -> Pair:
    """Time two functions, ``calls`` calls of one, then of the other, ``blocks`` times after one block to warm up."""
    pairs = [(_seconds(reference, calls), _seconds(other, calls)) for _ in range(blocks + 1)][1:]
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Pair(1e3 * first, 1e3 * second, statistics.median(b / a for a, b in pairs))


def _seconds(call: Callable[[], object], calls: int) -> float:
    """Mean seconds of a call, the device's work included."""
    _wait()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    _wait()
    return (time.perf_counter() - began) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def latency(net: nn.Module, dense: nn.Module, example: torch.Tensor, experiment: Experiment) -> Pair:
    """A forward pass of ``net`` relative to ``dense``, for inputs like ``example``, in its precision."""
    dtype = torch.bfloat16 if experiment.precision == "bf16" else torch.float32
    example = example.to(experiment.device, dtype, memory_format=experiment.memory_format)
    first, second = (copy.deepcopy(module).eval().to(experiment.device, dtype) for module in (dense, net))
    with torch.inference_mode():
        return in_turn(lambda: first(example), lambda: second(example), experiment.blocks, calls=10)


def step_at_the_start(experiment: Experiment, splits: bp.data.Splits) -> Pair:
    """A step of the gated network relative to one of the plain, at the initial θ, on the same batch on the device."""
    steps = 10**9  # so long a run that θ rests
    x = torch.randn(experiment.batch_size, *splits.input_shape, device=experiment.device)
    y = torch.randint(0, splits.num_classes, (experiment.batch_size,), device=experiment.device)
    x = x.to(memory_format=experiment.memory_format)
    batch, engine = Batch(x, y, Span(len(y), 0, len(y))), experiment.engine()
    bnn, own = experiment.bayesian(splits), experiment.plain_settings(lr=1e-9)
    net = PlainNet(experiment.plain(splits), experiment.likelihood(), bnn.num_data)
    plain = Trainer(net, Repeat(x, y, steps), 1, False, own, engine, Plain())
    settings = replace(experiment.settings(splits), lr=1e-9, schedule={"sample_from": 0.0})
    gated = Trainer(bnn, Repeat(x, y, steps), 1, False, settings, experiment.engine(), SVI(settings))

    return in_turn(
        lambda: plain.train_step(batch), lambda: gated.train_step(batch), experiment.blocks, 2 * experiment.every
    )
