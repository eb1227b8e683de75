"""Model files that an attacker wrote: each is refused within two seconds, and none runs code, loaded or called."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bayesprune.errors import CheckpointError
from bayesprune.pruning import load, read_run, save
from tests.pruning.forge import (
    CANARY,
    CODE,
    Change,
    at,
    node,
    of_nodes,
    read,
    read_off_the_input,
    rewrite,
    verify_code,
    write,
)

SECONDS = 2.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def verify_refused(file: Path, match: str = "its architecture is refused: ") -> None:
    before = time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        load(file)(torch.ones(2, 3))
    assert time.process_time() - before < SECONDS
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert not Path(CANARY).exists()


def a_method_as_module(name: str, *args: Any) -> Change:
    """A module whose name is that of a method, which is what code reads under that name."""
    return of_nodes(node("call_module", name, list(args)), paths=(name,))


def chain(target: str, count: int) -> Change:
    """A number that is combined with itself, again and again."""
    size = node("call_method", "size", [{"node": "x"}, 0], name="v0")
    more = [
        node("call_function", target, [{"node": f"v{i}"}, {"node": f"v{i}"}], name=f"v{i + 1}") for i in range(count)
    ]
    return of_nodes(size, *more)


def linear(name: str, inputs: int, outputs: int) -> dict[str, Any]:
    arguments = {"in_features": inputs, "out_features": outputs, "bias": True}
    return {"name": name, "class": "Linear", "arguments": arguments, "training": False}


INPUT = {"node": "input_1"}
SHAPE = node("call_function", "getattr", [{"node": "x"}, "shape"], name="s")
FORGED: dict[str, Change] = {
    "paths read off the input": read_off_the_input,
    "a path with dunders": of_nodes(node("call_module", "a.__class__", []), paths=("a.__class__",)),
    "GraphModule.to_folder": a_method_as_module("to_folder", CANARY),
    "GraphModule.code": a_method_as_module("code", {"node": "x"}),
    "GraphModule.graph": a_method_as_module("graph", {"node": "x"}),
    "Module.apply": a_method_as_module("apply", {"node": "x"}),
    "Module._call_impl": a_method_as_module("_call_impl", {"node": "x"}),
    "Module._modules": a_method_as_module("_modules.get", "x"),
    "a quote in a path": of_nodes(node("call_module", f'a"),{CODE},("', []), paths=(f'a"),{CODE},("',)),
    "input called self": lambda a, t: a["nodes"][0].update(target="self"),
    "input called torch": lambda a, t: (a["nodes"][0].update(target="torch"), at(1, node(
        "call_function", "torch.sigmoid", [INPUT]))(a, t)),
    "input called getattr": lambda a, t: a["nodes"][0].update(target="getattr"),
    "input called slice": lambda a, t: a["nodes"][0].update(target="slice"),
    "input called inf": lambda a, t: a["nodes"][0].update(target="inf"),
    "input that is code": lambda a, t: a["nodes"][0].update(target=f"x={CODE}"),
    "default that is a variable": lambda a, t: a["nodes"].insert(1, node("placeholder", "y", [INPUT])),
    "argument name that is code": at(1, node("call_function", "torch.relu", [INPUT], kwargs={f"a={CODE}, b": 1})),
    "attribute off the list": at(1, node("call_function", "getattr", [INPUT, "__class__"])),
    "attribute of a string": at(1, node("call_function", "getattr", [CODE, "shape"])),
    "attribute by default": at(1, node("call_function", "getattr", [INPUT, "shape", 1])),
    "method off the list": at(1, node("call_method", "register_hook", [INPUT, "x"])),
    "function off the list": at(1, node("call_function", "torch.load", [CANARY])),
    "dtype that is a function": at(1, node("call_method", "to", [INPUT, {"dtype": "load"}])),
    "a huge power": of_nodes(node("call_function", "operator.pow", [9, 10**6])),
    "a huge power of a size": of_nodes(
        node("call_method", "size", [{"node": "x"}, 0], name="s"),
        node("call_function", "operator.pow", [{"node": "s"}, 10**6], name="p"),
    ),
    "a product that grows": chain("operator.mul", 60),
    "a power that grows": chain("operator.pow", 60),
    "a list repeated": of_nodes(SHAPE, node("call_function", "operator.mul", [{"node": "s"}, 10**7])),
    "a literal list repeated": of_nodes(node("call_function", "operator.mul", [[1, 2], 10**7])),
    "a string repeated": of_nodes(node("call_function", "operator.mul", ["x", 10**7])),
    "a list that doubles": lambda a, t: (chain("operator.add", 60)(a, t), a["nodes"][1].update(args=[{"node": "x"}])),
    "chunks repeated": of_nodes(
        node("call_method", "chunk", [{"node": "x"}, 2], name="c"),
        node("call_function", "operator.mul", [{"node": "c"}, 10**7]),
    ),
    "a huge argument": at(1, node("call_function", "functional.pad", [INPUT, {"tuple": [0, 10**12]}])),
    "100,000 modules": lambda a, t: a.update(modules=[linear(str(i), 3, 4) for i in range(100_000)]),
    "100,000 tensors": lambda a, t: a.update(tensors={f"t{i}": "buffer" for i in range(100_000)}),
    "50,000 nodes": lambda a, t: a.update(nodes=a["nodes"] + [
        node("call_function", "torch.relu", [INPUT], name=f"v{i}") for i in range(50_000)]),
    "11,000 nodes": lambda a, t: a.update(nodes=a["nodes"] + [
        node("call_function", "torch.relu", [INPUT], name=f"v{i}") for i in range(11_000)]),
    "11,000 modules": lambda a, t: a.update(modules=[linear(str(i), 3, 4) for i in range(11_000)]),
    "9,000 modules without tensors": lambda a, t: a.update(
        modules=[linear(f"m{i}", 3, 4) for i in range(9_000)] + a["modules"]),
    "names of many parts": lambda a, t: a.update(
        modules=[linear(".".join([f"m{i}"] * 50), 3, 4) for i in range(10_000)]),
    "a huge layer": lambda a, t: a["modules"].append(linear("evil", 10**9, 10**9)),
    "a larger layer": lambda a, t: a["modules"].append(linear("evil", 30_000, 30_000)),
    "layers without end": lambda a, t: a["modules"].append({
        "name": "evil", "class": "LSTM", "training": False,
        "arguments": {"input_size": 1, "hidden_size": 1, "num_layers": 60_000}}),
    "a module within a layer": lambda a, t: a["modules"].append(linear("0.weight", 3, 4)),
    "a number of 5,000 digits": at(1, node("call_function", "torch.add", [INPUT, "DIGITS"])),
    "a list of a million": at(1, node("call_function", "torch.add", [INPUT, [1] * 10**6])),
    "a million lists": lambda a, t: a["nodes"].extend(
        node("call_function", "torch.add", [INPUT, [[1] * 100] * 100], name=f"v{i}") for i in range(100)),
    "arguments nested 10 deep": at(1, node("call_function", "torch.relu", json.loads("[" * 10 + "]" * 10))),
    "a name of a million letters": lambda a, t: a["modules"][0].update(name="a" * 10**6),
    "an unhashable name": lambda a, t: a["nodes"][0].update(name=[1]),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_forged_descriptions_are_refused(case: str, file: Path) -> None:
    architecture, tensors = read(file)
    FORGED[case](architecture, tensors)
    write(file, json.dumps(architecture).replace('"DIGITS"', "9" * 5000), tensors)
    verify_refused(file, "its architecture is refused: |larger than any network")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", "[]", "1", '"modules"', "{}", "", "\x00"])
def test_descriptions_that_are_none_are_refused(text: str, file: Path) -> None:
    write(file, text, read(file)[1])
    verify_refused(file)


@pytest.mark.parametrize("version", ["9" * 5000, "2", "0", "", "one", "1.0", "²"])
def test_other_versions_are_refused(version: str, file: Path) -> None:
    rewrite(file, version=version)
    verify_refused(file, "this bayesprune reads up to 1; upgrade bayesprune")


@pytest.mark.parametrize("unit", ["1,", "[[]],", "{},"])
def test_a_huge_description_is_refused(unit: str, file: Path) -> None:
    write(file, "[" + unit * (2**22 // len(unit) + 1) + "1]", read(file)[1])
    verify_refused(file, "larger than any network")
    with pytest.raises(CheckpointError, match="larger than any network"):
        read_run(file)


def test_names_in_a_file_are_no_names_in_code(file: Path) -> None:
    """Whatever operations are called, the network is the same, and its code names them n0, n1, ..."""
    expected = load(file)(torch.ones(2, 3))
    names = {"input_1": f"self\n{CODE}", "_0": "__class__", "_1": 'x"', "_2": "torch"}
    architecture, tensors = read(file)
    assert names.keys() < {entry["name"] for entry in architecture["nodes"]}
    text = json.dumps(architecture)
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    write(file, text, tensors)
    network = load(file)
    assert torch.equal(network(torch.ones(2, 3)), expected)
    assert [n.name for n in network.graph.nodes] == ["n0", "n1", "n2", "n3", "n4"]
    verify_code(network)
    assert not Path(CANARY).exists()
