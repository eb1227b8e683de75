"""Model files as an attacker would write them: any description, signed as `save` would."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, fx

from bayesprune.pruning import read_run
from bayesprune.pruning.modelfile import FORMAT, _digest
from bayesprune.pruning.whitelist import ATTRIBUTES, METHODS

CANARY = "canary"
CODE = f"open({CANARY!r}, 'w').write('code was run')"

Change = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(file, framework="pt") as source:
        architecture = json.loads(source.metadata()["architecture"])
        return architecture, {name: source.get_tensor(name).clone() for name in source.keys()}  # noqa: SIM118


def write(file: Path, text: str, tensors: dict[str, Tensor], version: str = "1", run: str | None = None) -> None:
    metadata = {
        "format": FORMAT,
        "version": version,
        "architecture": text,
        "sha256": _digest(version, text, tensors, run),
        **({} if run is None else {"run": run}),
    }
    file.write_bytes(to_bytes(tensors, metadata))


def rewrite(file: Path, change: Change | None = None, version: str = "1") -> None:
    """Forge a file: change its architecture and sign it anew."""
    run = read_run(file)
    architecture, tensors = read(file)
    if change is not None:
        change(architecture, tensors)
    write(file, json.dumps(architecture), tensors, version, run)


def node(op: str, target: str, args: list, **more: Any) -> dict[str, Any]:
    return {"name": "evil", "op": op, "target": target, "args": args, "kwargs": {}, **more}


def at(position: int, value: dict[str, Any]) -> Change:
    return lambda a, t: a["nodes"].insert(position, value)


def of_nodes(*nodes: dict[str, Any], paths: tuple[str, ...] = ()) -> Change:
    """A network of one input ``x`` and these nodes, with empty modules at these paths."""

    def change(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors.clear()
        architecture["modules"] = [
            {"name": path, "class": "Identity", "arguments": {}, "training": False} for path in paths
        ]
        start = node("placeholder", "x", [], name="x")
        end = node("output", "output", [{"node": nodes[-1]["name"]}], name="output")
        architecture["nodes"] = [start, *nodes, end]

    return change


def read_off_the_input(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The variable of the input is called self, so that paths of modules are read off a tensor: eval among them."""
    paths = ("backward.__builtins__.get", "data.__torch_function__")
    find = node("call_module", paths[0], ["eval"], name="f")
    run = node("call_module", paths[1], [{"node": "f"}, {"tuple": []}, {"tuple": [CODE]}], name="r")
    of_nodes(find, run, paths=paths)(architecture, tensors)
    architecture["nodes"][0]["name"] = "self"


ALLOWED = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AugAssign, ast.Return, ast.Expr, ast.Call,
    ast.keyword, ast.Attribute, ast.Subscript, ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.BinOp,
    ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context, ast.Import, ast.alias,
)  # fmt: skip


def verify_code(network: fx.GraphModule) -> None:
    """The code that torch generated for a loaded network reads nothing but what the file may name."""
    declared = {name for name, _ in network.named_modules()} | set(network.state_dict())
    tree = ast.parse(network.code)
    assert [type(part) for part in tree.body if not isinstance(part, ast.Import)] == [ast.FunctionDef]
    inner = {part.value for part in ast.walk(tree) if isinstance(part, ast.Attribute)}
    for part in ast.walk(tree):
        assert isinstance(part, ALLOWED), ast.dump(part)
        if isinstance(part, ast.Import):
            assert [alias.name for alias in part.names] == ["torch"]
        if not isinstance(part, ast.Attribute) or part in inner:
            continue
        path, owner = [part.attr], part.value
        while isinstance(owner, ast.Attribute):
            path, owner = [owner.attr, *path], owner.value
        if isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "getattr":
            continue  # a path with a part that is no identifier
        assert isinstance(owner, ast.Name), ast.dump(part)
        if owner.id == "self":
            assert ".".join(path) in declared, path
        elif owner.id != "torch":
            assert owner.id[0] == "n" and owner.id[1:].isdigit(), owner.id
            assert len(path) == 1 and path[0] in METHODS | set(ATTRIBUTES), path
