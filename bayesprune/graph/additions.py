"""Refuse what was put on a network's modules from outside: surgery and model files would lose it, or break on it."""

from __future__ import annotations

import re
import unicodedata

import torch
from torch import fx, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from bayesprune.errors import TraceError
from bayesprune.graph.tracer import GateTracer

HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
COMPILED = "OptimizedModule"
NORMS = {  # hooks that torch.nn.utils sets, with what takes them off again
    "WeightNorm": ("weight normalisation", "torch.nn.utils.remove_weight_norm(module)"),
    "SpectralNorm": ("spectral normalisation", "torch.nn.utils.remove_spectral_norm(module)"),
}
REPLACED = "a forward method set on the object", "write a class with this forward instead"


_PART = re.compile(r"(?!__)\w[\w :/+-]{0,199}")


def is_plain_name(name: str) -> bool:
    """Whether every part of a dotted name can stand in code that torch.fx generates, and means itself there."""
    return all(map(_PART.fullmatch, name.split("."))) and unicodedata.is_normalized("NFKC", name)


def check_additions(net: nn.Module, *, followed: bool = False) -> None:
    """Refuse hooks, parametrised or masked weights, replaced forward methods, and layers that have no size yet.

    So are parts whose name torch.fx cannot write, or has taken: in a traced network something else is read under it.

    Args:
        net: The network.
        followed: Whether calls of its modules are followed once and for all, so that a module may have chosen one of
            its methods to be its forward pass.

    Raises:
        TraceError: for the first module of ``net`` that has one.
    """
    traced = fx.GraphModule({}, fx.Graph())
    for name in (*net._modules, *net._parameters, *net._buffers):
        if hasattr(traced, name):
            raise TraceError(f"a part of the network is called {name!r}, as something of torch.fx is; rename it")
    for name in (*dict(net.named_modules()), *dict(net.named_parameters())):
        if name and not is_plain_name(name):
            raise TraceError(
                f"a part of the network is called {name!r}; rename it with letters, digits, '_' and '-' alone"
            )
    for name, module in net.named_modules():
        found = _addition(module)
        if found is not None and not (followed and found is REPLACED and name and _chosen(module)):
            what, advice = found
            where = f"module {name!r}" if name else "the network"
            raise TraceError(f"{where} has {what}, which a smaller network would not keep; {advice}")


def _chosen(module: nn.Module) -> bool:
    """Whether the forward method that was set on a module is another method of it, and will be followed."""
    return getattr(module.forward, "__self__", None) is module and not GateTracer().is_leaf_module(module, "")


def _addition(module: nn.Module) -> tuple[str, str] | None:
    """What a module has that its class does not give it, and what to do."""
    if isinstance(module, WRAPPERS):
        return f"a wrapper around it ({type(module).__name__})", "pass the module itself: wrapper.module"
    if type(module).__name__ == COMPILED:
        return "a form compiled by torch.compile", "pass the module that it was compiled from"
    if isinstance(module, torch.jit.ScriptModule):
        return "a form compiled by TorchScript", "pass the module that it was compiled from"
    if is_parametrized(module):
        names = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        advice = "first call torch.nn.utils.parametrize.remove_parametrizations(module, name)"
        return f"a parametrisation of {names} (weight_norm, spectral_norm, ...)", advice
    for hook in module._forward_pre_hooks.values():
        kind = type(hook).__name__
        if kind in NORMS:
            what, remover = NORMS[kind]
            return what, f"first call {remover}"
        if type(hook).__module__ == "torch.nn.utils.prune":
            advice = f"first call torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"  # type: ignore[attr-defined]
            return "a mask of torch.nn.utils.prune", advice
    if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
        return "parameters without a shape (a lazy layer)", "first pass one batch through the network"
    if type(module).__module__.startswith(("torch.ao.", "torch.nn.quantized", "torch.nn.qat")):
        return f"quantised weights ({type(module).__name__})", "prune the network first and quantise it afterwards"
    if "forward" in vars(module):
        return REPLACED
    for attribute, kind in HOOKS.items():
        if getattr(module, attribute):
            return f"a {kind}", "remove it (handle.remove()), or write what it does into a module"
    return None
