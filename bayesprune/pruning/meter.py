"""What each operation of a network takes when all gates are on: multiply-adds, or seconds measured on its device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import Inputs
from bayesprune.graph import Traced, trace
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.graph.misfit import misfits_named
from bayesprune.graph.untouched import untouched
from bayesprune.layers import Gate, GatedLayer
from bayesprune.layers import eval_mode as evaluating
from bayesprune.pruning.counter import counted

WARM_UP = 3
"""Passes before the first that is timed."""
REPEATS, PATIENCE = 50, 1.0
"""Timed passes at most, and the seconds, for each network, after which no further one begins."""
WORKING = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter
"""The clock on a CPU: it stands while other work has the processor, where there is one that is as fine."""


def count_macs(traced: Traced, example: Inputs) -> dict[fx.Node, int]:
    """Multiply-adds of matrix products and convolutions in one pass of one example, by operation; counted once.

    Args:
        traced: The network, in eval mode.
        example: Inputs, shape ``(B, ...)``, of which the first example is taken.

    Raises:
        TraceError: for an operation whose multiply-adds cannot be counted.
    """
    if not traced.macs:
        with untouched(traced.net), counted() as counter:
            passing = _Pass(traced, counter.get_total_flops)
            passing.of(example[:1])
        traced.macs = {node: (after - before) // 2 for node, (before, after) in passing.marks.items()}
    return traced.macs


@checked_arguments
def measure_latency(net: nn.Module, example: Inputs) -> list[float]:
    """Seconds of every operation of one pass with all gates on, in eval mode, in the order of the traced network.

    Each is the median over repeats, measured on its own: on CUDA between two events in the stream of the pass, on a
    CPU by the time that the calling thread works, which other programs do not add to. Gates and identities, which
    `compact` takes out, take no time. Modules that are traced as one (torch's own) count with all that happens in them.

    Args:
        net: Gated network, or any that can be traced.
        example: Inputs, shape ``(B, ...)``, where the network is: seconds are those of the whole batch.

    Raises:
        DataError: for an ``example`` that the network does not take.
        TraceError: if the forward pass cannot be followed.
    """
    return compare_latencies([net], example)[0]


@checked_arguments
def compare_latencies(nets: Sequence[nn.Module], example: Inputs) -> list[list[float]]:
    """The same for several networks, which take turns, so that all of them see the machine as fast as it is by then.

    Args:
        nets: The networks.
        example: Inputs, shape ``(B, ...)``, where the networks are.

    Raises:
        DataError: for an ``example`` that a network does not take.
        TraceError: if a forward pass cannot be followed.
    """
    mark, between = _clock(example.device)
    with ExitStack() as modes:
        for net in nets:
            modes.enter_context(eval_mode(net))
            modes.enter_context(misfits_named(net, example, "measure_latency"))
        traced = [trace(net) for net in nets]
        times: list[dict[fx.Node, list[float]]] = [{} for _ in nets]
        began = math.inf
        for turn in range(WARM_UP + REPEATS):
            passes = [_Pass(each, mark) for each in traced]
            for passing in passes:
                passing.of(example)
            if turn < WARM_UP:
                began = time.perf_counter()
                continue
            for found, passing in zip(times, passes, strict=True):
                for node, (before, after) in passing.marks.items():
                    found.setdefault(node, []).append(between(before, after))
            if time.perf_counter() - began > PATIENCE * len(nets):
                break
    return [
        [0.0 if isinstance(each.module(node), (Gate, nn.Identity)) else median(taken) for node, taken in found.items()]
        for each, found in zip(traced, times, strict=True)
    ]


class _Pass(Execution):
    """One pass with all gates on, that reads a counter before and after every operation."""

    def __init__(self, traced: Traced, read: Callable[[], Any]):
        super().__init__(traced.net, traced.graph)
        self.read = read
        self.marks: dict[fx.Node, tuple[Any, Any]] = {}

    def of(self, example: Inputs) -> None:
        """Go through the network with these inputs."""
        self.run(given_inputs(self.nodes, example))

    def compute(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """The value of a node; that of a parameter has no gradient, which torch's counter would look for."""
        value = super().compute(node, values)
        return value.detach() if node.op == "get_attr" and isinstance(value, Tensor) else value

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one operation; a gate keeps what it selects, and multiplies nothing."""
        module = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        before = self.read()
        if isinstance(module, Gate):
            result = module.select(*args, **kwargs)
        elif isinstance(module, GatedLayer):
            result = module.ungated(*args, **kwargs)
        else:
            result = super().call(node, args, kwargs)
        self.marks[node] = before, self.read()
        return result


def _clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """A function that marks the present moment of a device, and one that gives the seconds between two marks."""
    if device.type == "cuda":

        def event() -> torch.cuda.Event:
            recorded = torch.cuda.Event(enable_timing=True)
            recorded.record(torch.cuda.current_stream(device))
            return recorded

        def between(before: torch.cuda.Event, after: torch.cuda.Event) -> float:
            after.synchronize()
            return before.elapsed_time(after) / 1000

        return event, between

    def now() -> float:
        if device.type == "mps":
            torch.mps.synchronize()
        return WORKING()

    return now, lambda before, after: after - before


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Let ``net`` be in eval mode, without gradients, within the context."""
    with evaluating(net), torch.no_grad():
        yield
