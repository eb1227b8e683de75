"""Operations through which nothing is followed, but whose results may be parts of their inputs."""

from __future__ import annotations

import torch
from torch import nn

from bayesprune.ops.registry import Operation, register

register(Operation(name="unflatten", modules=(nn.Unflatten,), memory="view", arguments=("dim", "unflattened_size")))
for _name in [
    "expand",
    "expand_as",
    "broadcast_to",
    "chunk",
    "split",
    "tensor_split",
    "unbind",
    "narrow",
    "select",
    "movedim",
    "view_as",
    "reshape_as",
    "unflatten",
    "to",
    "type_as",
    "float",
    "t",
    "unfold",
    "diagonal",
]:
    _functions = (getattr(torch, _name),) if hasattr(torch, _name) and _name != "float" else ()
    _gives = ["tensor"] if _name in ("chunk", "split", "tensor_split", "unbind") else "tensor"
    register(
        Operation(name=_name, functions=_functions, methods=(_name,), memory="view", gives=_gives, files=True),
    )
