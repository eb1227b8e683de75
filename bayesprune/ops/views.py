"""Operations through which nothing is followed, but whose results may be parts of their inputs."""

from __future__ import annotations

from bayesprune.ops.registry import Operation, register

for _name in ("to", "type_as", "float"):
    register(Operation(name=_name, methods=(_name,), memory="view", files=True))
