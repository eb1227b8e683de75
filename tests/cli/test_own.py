"""``bayesprune train MODULE:NAME``: a network of one's own is trained, resumed, told of and left small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.cli.config import resolve
from bayesprune.cli.own import OwnNetwork, _of_file, is_own
from bayesprune.cli.reporting import read_runs
from bayesprune.cli.run import prepare
from bayesprune.layers import gates_of
from tests.cli.verify import run, start_and_stop, verify_done, verify_refused, verify_same_end

SOURCE = """
import torch
from torch import nn
from bayesprune.layers import Linear

def make_net(input_shape, num_classes):
    first, last = nn.Linear(input_shape[1] * input_shape[2], 12), nn.Linear(12, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)

def gated(input_shape, num_classes=10):
    return nn.Sequential(nn.Flatten(), Linear(64, 5, gate="unit"), nn.ReLU(), nn.Linear(5, num_classes))

class Fixed(nn.Module):
    def __init__(self, hidden=7):
        super().__init__()
        self.first, self.last = nn.Linear(64, hidden), nn.Linear(hidden, 10)
    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

def unnamed(shape, classes):
    return Fixed(len(shape) + classes)

def wide(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 5), nn.ReLU(), nn.Linear(5, num_classes))

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))

def pair():
    class Two(Fixed):
        def forward(self, x):
            return super().forward(x), x
    return Two()

def line():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def breaks(input_shape):
    raise ValueError(f"no {input_shape}")

class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
        self.last = nn.Linear(4, 10)
    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.second(x).relu()
        return self.last(self.third(x.mean((2, 3))).relu())

def number():
    return 3

ready = Fixed()
"""
QUICK = ("--epochs", "4", "--limit", "200", "--batch-size", "20", "--lr", "0.02", "--log-gamma", "0.5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the user's code in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.py").write_text(SOURCE)
    for picture in ("run.draw_gates", "run.draw_diagram", "commands.draw_inspected", "commands.draw_score"):
        monkeypatch.setattr(f"bayesprune.cli.{picture}", lambda *args, **kwargs: None)  # half of the time otherwise
    return tmp_path


def test_a_run_resumes_and_all_commands_know_it_and_only_those_that_are_told_to_run_its_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    net = "parts/mine.py:make_net"
    verify_done("train", net, *QUICK, "--slab", "normal", "--out", "whole")
    start_and_stop("--net", net, *QUICK, "--slab", "normal", folder=Path("broken"), epoch=2)
    verify_done("train", "--resume", "broken")
    verify_same_end(Path("broken"), Path("whole"))
    assert json.loads(Path("whole/config.json").read_text())["options"]["net"] == net
    assert "1_gate" in verify_done("inspect", "whole")
    verify_refused("evaluate", "whole", says=(f"which the code {net} makes", "give --run-code"))
    scored = json.loads(verify_done("evaluate", "whole", "--json", "--run-code"))
    assert scored["posterior_accuracy"] == json.loads(Path("whole/result.json").read_text())["posterior_accuracy"]
    rounded = ("export", "whole", "--format", "safetensors", "--round-to", "4")
    verify_refused(*rounded, "--out", "r.safetensors", says=("give --run-code",))
    verify_done(*rounded, "--out", "r.safetensors", "--run-code")
    torch.testing.assert_close(
        bp.load("r.safetensors")(x := torch.rand(3, 1, 8, 8)), bp.load("whole/model.safetensors")(x)
    )
    (told,) = read_runs([Path("whole")], True)
    assert told.latency is not None and list(told.saved) == ["1_gate"]

    def no_code(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(OwnNetwork, "plain", no_code)  # the folder is enough for the rest
    (told,) = read_runs([Path("whole")])
    assert told.latency is None and told.saved == {} and told.filters is None and told.result is not None
    verify_done("export", "whole", "--format", "safetensors", "--out", "plain.safetensors")
    bp.load("plain.safetensors")


@pytest.mark.parametrize(
    ("name", "gate", "widths"),
    [("make_net", "1_gate", [12, 10]), ("gated", "1", [5, 10]), ("Fixed", "first_gate", [7, 10]),
     ("unnamed", "first_gate", [13, 10])],
)  # fmt: skip
def test_functions_and_classes_are_called_with_what_they_take(folder: Path, name: str, gate: str, widths: list[int]):
    net = OwnNetwork(f"parts/mine.py:{name}")((1, 8, 8), 10)
    assert list(gates_of(net)) == [gate]
    assert [m.out_features for m in net.modules() if isinstance(m, nn.Linear)] == widths


def test_modules_are_found_in_the_working_directory_and_where_python_looks(folder: Path):
    (folder / "nets_of_mine.py").write_text(SOURCE)
    assert list(gates_of(OwnNetwork("nets_of_mine:gated")((1, 8, 8), 10))) == ["1"]
    assert is_own("nets_of_mine:gated") and not is_own("torchvision:resnet18") and not is_own("resnet18")


def test_a_recipe_and_a_folder_of_results_go_by_the_network(folder: Path):
    config = resolve({"net": "parts/mine.py:make_net"})
    net = OwnNetwork("parts/mine.py:make_net")((1, 8, 8), 10)
    assert (config.lr, config.price) == (bp.recommended(net).lr, bp.recommended(net).price)
    assert config.default_folder == Path("runs/mine-make_net-digits-seed0")


def test_weights_that_the_code_brings_along_can_be_frozen(folder: Path):
    ready = prepare(resolve({"net": "parts/mine.py:gated", "freeze_weights": True}))
    assert not any(p.requires_grad for p in ready.net.weights().values()) and ready.net.num_gates == 5


def test_the_start_says_what_has_gates_and_what_was_left_and_why(folder: Path):
    short = ("--epochs", "1", "--limit", "40")
    lines = verify_done("train", "parts/mine.py:Added", *short, "--out", "run").splitlines()
    assert lines[0] == (
        "gates: 1 branch (residual), 4 units (third_gate); they rule 40.7% of the multiply-adds. "
        "Left without a gate: 6 in first, residual.body.second (several layers write it (streams=True)). "
        "bp.structures(net, example_input=x) lists them all"
    )
    assert lines[1].startswith("epoch 1/1")
    told = run("train", "parts/mine.py:make_net", *short, "--json", "--out", "other")
    assert told.stderr.splitlines()[0] == "gates: 12 units (1_gate); they rule 100.0% of the multiply-adds"


def test_what_cannot_work_is_one_line(folder: Path):
    (folder / "broken_code.py").write_text("import math\nimport not_installed_at_all\n")
    (folder / "leaves.py").write_text("raise SystemExit('usage')\n")
    there = "parts/mine.py"
    for net, says in (
        ("nowhere_at_all:make_net", ("no module 'nowhere_at_all' in", "expected MODULE:NAME")),
        ("torchvison:resnet18", ("did you mean 'torchvision'?",)),
        ("parts/other.py:make_net", ("there is no file", "parts/other.py")),
        ("broken_code:make_net", ("importing broken_code failed", "not_installed_at_all", "(broken_code.py, line 2)")),
        ("leaves.py:make_net", ("leaves.py failed: SystemExit: usage",)),
        (f"{there}:make_nte", ("has no 'make_nte' (did you mean 'make_net'?)",)),
        (f"{there}:", ("expected MODULE:NAME or path/to/FILE.py:NAME",)),
        (f"{there}:ready", ("ready is a network already; write def make_net",)),
        (f"{there}:QUICK", ("has no 'QUICK'",)),
        (f"{there}:number", ("expected a torch.nn.Module from number, got 3",)),
        (f"{there}:breaks", ("breaks failed for input_shape=(1, 8, 8)", "ValueError: no (1, 8, 8) (mine.py, line")),
        (
            f"{there}:wide",
            (
                "does not take inputs of shape (2, 1, 8, 8)",
                "layer '1', Linear(in_features=100",
                "got shape (2, 64)",
                "the examples of --data have shape (1, 8, 8)",
            ),
        ),
        (f"{there}:few", ("expected logits of shape (2, 10)", "got shape (2, 3)")),
        (f"{there}:pair", ("expected logits of shape (2, 10)", "got a tuple")),
        (f"{there}:line", ("found no place for a gate",)),
    ):
        verify_refused("train", net, "--epochs", "1", "--out", "run", says=(*says, "--net"))
    verify_refused("train", "lenet5", "--net", "lenet300", says=("NET lenet5 and --net lenet300 are two networks",))
    verify_refused("train", f"{there}:gated", "--weights", "w", says=("load them where it is made",))
    assert not Path("run").exists()


def test_other_code_than_the_run_began_with_is_refused(folder: Path):
    start_and_stop("--net", "parts/mine.py:gated", *QUICK, folder=Path("run"), epoch=1)
    changed = SOURCE.replace("Linear(64, 5, ", "Linear(64, 6, ").replace("Linear(5, num", "Linear(6, num")
    (folder / "parts" / "mine.py").write_text(changed)
    _of_file.cache_clear()  # as in another process
    verify_refused(
        "train",
        "--resume",
        "run",
        says=("run/checkpoint.pt belongs to another run: its network", "resume with the same network"),
    )


def test_own_networks_are_compared_by_their_import_path(folder: Path):
    (folder / "a.toml").write_text(
        'title = "a"\nseeds = [1]\nmacs = [0.5]\ncompute = [1]\n[tuning]\ntrials = 1\nseed = 2\n'
        '[[tasks]]\nnet = "parts/mine.py:make_net"\ndata = "digits"\nlimit = 60\nepochs = 2\n[methods.none]\n'
    )
    told = run("compare", "a.toml", "--out", "out", "--json")
    assert told.exit_code == 0, told.output
    (line,) = json.loads(told.stdout)["lines"]
    assert (line["task"], line["method"], line["runs"], line["failed"]) == ("mine.py-make_net-digits", "none", 1, 0)
    assert "test 1/1  mine.py-make_net-digits" in told.stderr and "results: " in told.stderr
