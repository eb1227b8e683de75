"""Which layer does not take what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bayesprune.data.inputs import Inputs, called, tensors_of
from bayesprune.errors import BayesPruneError, DataError, GateError
from bayesprune.layers import Gate, eval_mode


@contextmanager
def misfits_named(net: nn.Module, x: Inputs, where: str) -> Iterator[None]:
    """Turn what torch raises of inputs that a network cannot take into a line that names the layer and the shapes.

    Args:
        net: The network that is called within the context.
        x: Its inputs.
        where: Which inputs these are, for the message.

    Raises:
        DataError: if the network fails on them, as it does in a second pass that looks where. What a layer refuses
            whatever its inputs (a `Residual` whose branch and by-pass differ) stays a `GateError`.
    """
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        known = isinstance(error, (BayesPruneError, torch.OutOfMemoryError)) and not isinstance(error, GateError)
        found = None if known else _failing(net, x)
        if found is None or (isinstance(error, GateError) and not isinstance(found[1], Gate)):
            raise  # sides of a Residual that differ, say, are no fault of the inputs
        kinds = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors_of(x))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{where}: the network does not take inputs of shape {kinds}: {_described(*found)} ({reason})"
        ) from error


def _failing(net: nn.Module, x: Inputs) -> tuple[str, nn.Module, str] | None:
    """The innermost module that fails in a pass in eval mode: its name, itself and what it was given; or ``None``."""
    running: list[tuple[str, nn.Module, str]] = []
    handles = []
    for name, module in net.named_modules():

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            given = (*args, *kwargs.values())
            shapes = ", ".join(str(tuple(a.shape)) for a in given if isinstance(a, torch.Tensor)) or "no tensor"
            running.append((name, module, shapes))

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with eval_mode(net), torch.no_grad():
            called(net, x)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return running[-1] if running else ("", net, "")
    finally:
        for handle in handles:
            handle.remove()
    return None


def _described(name: str, module: nn.Module, shapes: str) -> str:
    settings = module.extra_repr()
    about = f"{type(module).__name__}({settings})" if settings else type(module).__name__
    return f"layer {name!r}, {about}, got shape {shapes}" if name else f"the forward pass of {about} failed"
