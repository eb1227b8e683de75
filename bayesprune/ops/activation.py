"""Activations and other functions of single numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.ops.call import Call
from bayesprune.ops.entrywise import pointwise, resolved, same, zeros_alone
from bayesprune.ops.features import Step
from bayesprune.ops.registry import Memory, Operation, Parts, register

Function = Callable[..., Any]
IN_PLACE = ("inplace",)


def _in_place(methods: tuple[str, ...], functions: tuple[Function, ...]) -> dict[Function | str, Function | str]:
    """Methods of torch, and ``relu_``, that write over their tensor: those whose names end in an underscore.

    Args:
        methods: What they are called without it.
        functions: Functions that do the same.
    """
    found: dict[Function | str, Function | str] = {f"{name}_": name for name in methods if hasattr(Tensor, f"{name}_")}
    return found | ({torch.relu_: torch.relu} if torch.relu in functions else {})


def _activation(module: type[nn.Module], *functions: Function, arguments: tuple[str, ...] = IN_PLACE) -> None:
    """Register an activation.

    Args:
        module: The class that computes it.
        functions: Functions that compute it.
        arguments: Constructor arguments of the class.
    """
    name = module.__name__.lower()
    methods = (name,) if module in (nn.ReLU, nn.Sigmoid, nn.Tanh) else ()
    register(
        Operation(
            name=name,
            modules=(module,),
            functions=functions,
            methods=methods,
            inplace=_in_place(methods, functions),
            entries=pointwise,
            pointwise=True,
            memory="own",
            arguments=arguments,
            files=True,
        )
    )


def _function(*functions: Function, methods: tuple[str, ...] = (), memory: Memory = "own") -> None:
    """Register a function of single numbers.

    Args:
        functions: Functions that compute it.
        methods: Names of methods that do.
        memory: Where its result lies.
    """
    register(
        Operation(
            name=functions[0].__name__ if functions else methods[0],
            functions=functions,
            methods=methods,
            inplace=_in_place(methods, functions) if memory == "own" else {},
            entries=pointwise,
            pointwise=True,
            memory=memory,
            files=True,
        )
    )


def _prelu(call: Call) -> Step:
    """A constant goes through with the slope of its entry."""
    slopes = call.module.weight.detach().cpu().double()

    def become(value: Tensor) -> Tensor:
        return torch.where(value > 0, value, value * slopes)

    if len(slopes) == 1:
        return same(call.source, call.x, become(call.x.value))
    seen = call.x.along(1)
    if seen is None:
        return call.wall(f"has its features along another dimension than {call.name} works along")
    return resolved(call, seen, len(slopes), become)


def _slopes(module: nn.PReLU) -> Parts:
    if module.num_parameters == 1:
        return Parts({}, {})
    return Parts({"weight": ("out",)}, {"num_parameters": "out"})


_activation(nn.CELU, F.celu, torch.celu, arguments=("alpha", "inplace"))
_activation(nn.ELU, F.elu, arguments=("alpha", "inplace"))
_activation(nn.GELU, F.gelu, arguments=("approximate",))
_activation(nn.Hardshrink, F.hardshrink, arguments=("lambd",))
_activation(nn.Hardsigmoid, F.hardsigmoid)
_activation(nn.Hardswish, F.hardswish)
_activation(nn.Hardtanh, F.hardtanh, arguments=("min_val", "max_val", "inplace"))
_activation(nn.LeakyReLU, F.leaky_relu, arguments=("negative_slope", "inplace"))
_activation(nn.LogSigmoid, F.logsigmoid, arguments=())
_activation(nn.Mish, F.mish)
_activation(nn.ReLU, F.relu, torch.relu)
_activation(nn.ReLU6, F.relu6)
_activation(nn.SELU, F.selu, torch.selu)
_activation(nn.SiLU, F.silu)
_activation(nn.Sigmoid, F.sigmoid, torch.sigmoid, arguments=())
_activation(nn.Softplus, F.softplus, arguments=("beta", "threshold"))
_activation(nn.Softshrink, F.softshrink, arguments=("lambd",))
_activation(nn.Softsign, F.softsign, arguments=())
_activation(nn.Tanh, F.tanh, torch.tanh, arguments=())
_activation(nn.Tanhshrink, F.tanhshrink, arguments=())
_activation(nn.Threshold, F.threshold, arguments=("threshold", "value", "inplace"))

register(
    Operation(
        name="identity",
        modules=(nn.Identity,),
        entries=pointwise,
        pointwise=True,
        memory="view",
        arguments=(),
    )
)
register(
    Operation(
        name="prelu",
        modules=(nn.PReLU,),
        entries=_prelu,
        parts=_slopes,
        memory="own",
        arguments=("num_parameters",),
    )
)

register(
    Operation(
        name="contiguous",
        methods=("contiguous",),
        entries=pointwise,
        pointwise=True,
        moves=True,
        memory="view",
        files=True,
    )
)
register(
    Operation(
        name="another format of numbers",
        methods=("double", "float", "half", "to"),
        kind="format",
        entries=lambda call: same(call.source, call.x, zeros_alone(call.x.value)),
        takes="sizes",
        memory="view",
        files=True,
    )
)
_function(operator.pos, methods=("detach",), memory="view")
_function(methods=("clone",))
_function(torch.neg, operator.neg, methods=("neg",))
_function(torch.pow, operator.pow, methods=("pow",))
BOTH = """
    abs ceil clamp clamp_max clamp_min cos erf exp expm1 floor log log10 log1p log2 nan_to_num reciprocal round rsqrt
    sign sin sqrt square tan trunc
"""
for _name in BOTH.split():
    _function(getattr(torch, _name), methods=(_name,))
for _name in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "cosh", "erfc", "exp2", "frac", "sinh"):
    _function(getattr(torch, _name))
