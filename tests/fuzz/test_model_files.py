"""Model files that are damaged or forged at random: a network that equals, or our error; no code is run from them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.pruning import save
from tests.pruning.forge import read, write

SEED = 20261129
FILES = 300
CANARY = "canary"
CODE = f"__import__('pathlib').Path({CANARY!r}).touch()"
WORDS = [
    "self", "torch", "__class__", "_modules", "forward", "to_folder", "data.__torch_function__", "operator.pow", "eval",
    "operator.mul", "getattr", "x", "n0", "0", "", ".", "Linear", "LSTM", "Identity", "shape", "call_module", CODE,
    f'"),{CODE},("', "input_1", "torch.relu", "size", "parameter", "a-b", "\n", "lambda", "flatten", "register_hook",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 7, 2**16, 2**24, 10**9, 2**63, -(10**12), 0.5, 1e300, float("nan"), float("inf"), True, None]

Where = tuple[Any, Any]


class Net(nn.Module):
    """Every kind of node: modules with and without tensors, functions, methods, attributes, operators, tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.steps = nn.LSTM(16, 5, batch_first=True)
        self.head = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor, flag: bool = True) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)) * self.scale)
        x = x.view(x.size(0), x.shape[1], -1)[:, :, : 2 * 8]
        x = self.steps(x)[0].reshape(x.shape[0], -1)
        return self.head(x).softmax(-1)


def places(value: Any) -> list[Where]:
    """Every place in nested lists and dictionaries, as container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in [(value, key), *places(part)]]


def mutate_value(architecture: dict[str, Any], draw: random.Random) -> None:
    """Something else in one place."""
    container, key = draw.choice(places(architecture))
    nested = [[], {}, {"node": "input_1"}, {"tuple": [1, 2]}, {"slice": [0, 2**40, 1]}, {"float": "nan"}, [[[[1]]]]]
    container[key] = draw.choice([*NUMBERS, *WORDS, *nested])


def mutate_number(architecture: dict[str, Any], draw: random.Random) -> None:
    numbers = [(c, k) for c, k in places(architecture) if isinstance(c[k], (int, float))]
    container, key = draw.choice(numbers)
    container[key] = draw.choice([*NUMBERS, -container[key], container[key] + 1, container[key] * 2])


def mutate_word(architecture: dict[str, Any], draw: random.Random) -> None:
    words = [(c, k) for c, k in places(architecture) if isinstance(c[k], str)]
    container, key = draw.choice(words)
    container[key] = draw.choice([*WORDS, *(c[k] for c, k in words)])


def mutate_key(architecture: dict[str, Any], draw: random.Random) -> None:
    container, key = draw.choice([(c, k) for c, k in places(architecture) if isinstance(c, dict)])
    value = container.pop(key)
    if draw.random() < 0.7:
        container[draw.choice(WORDS)] = value


def mutate_list(architecture: dict[str, Any], draw: random.Random) -> None:
    """Entries left out, doubled, exchanged, or very many of them."""
    lists = [c[k] for c, k in places(architecture) if isinstance(c[k], list) and c[k]]
    chosen = draw.choice(lists)
    i, j = draw.randrange(len(chosen)), draw.randrange(len(chosen))
    kind = draw.randrange(4)
    if kind == 0:
        del chosen[i]
    elif kind == 1:
        chosen.insert(j, chosen[i])
    elif kind == 2:
        chosen[i], chosen[j] = chosen[j], chosen[i]
    else:
        chosen *= draw.choice([2, 1000, 30_000])


def mutate_kind(architecture: dict[str, Any], draw: random.Random) -> None:
    """What can be computed, but is another network."""
    kinds = {"torch.relu": ["torch.tanh", "torch.abs"], "operator.mul": ["operator.add"], 1e-05: [0.1, 0.5]}
    container, key = draw.choice([(c, k) for c, k in places(architecture) if str(c[k]) in map(str, kinds)])
    container[key] = draw.choice(next(new for old, new in kinds.items() if str(old) == str(container[key])))


MUTATIONS: list[Callable[[dict[str, Any], random.Random], None]] = [
    mutate_value, mutate_number, mutate_word, mutate_key, mutate_list, mutate_kind,
]  # fmt: skip


def forge(file: Path, target: Path, draw: random.Random) -> None:
    """One to three mutations, signed anew."""
    architecture, tensors = read(file)
    for _ in range(draw.choice([1, 1, 2, 3])):
        try:
            draw.choice(MUTATIONS)(architecture, draw)
        except IndexError:  # an earlier mutation took all places of this kind away
            continue
    if draw.random() < 0.15:
        name = draw.choice(sorted(tensors))
        tensors[name] = draw.choice(
            [torch.zeros(0), torch.zeros(3, 1 << 20), tensors[name].double(), tensors[name].to(torch.int8)]
        )
    write(target, json.dumps(architecture), tensors)


def damage(file: Path, target: Path, draw: random.Random) -> None:
    """Bits flipped, bytes left out, put in or exchanged, not signed anew; half of the time in the head of the file."""
    content = bytearray(file.read_bytes())
    end = draw.choice([200, len(content)])
    for _ in range(draw.choice([1, 1, 4, 50])):
        i = draw.randrange(min(end, len(content)))
        kind = draw.randrange(4)
        if kind == 0:
            content[i] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del content[i : i + draw.randrange(1, 40)]
        elif kind == 2:
            content[i:i] = draw.randbytes(draw.randrange(1, 40))
        else:
            content[i : i + 9] = draw.choice([b"999999999", b"-1", b"[[[[[[[[[", b"\x00" * 9, b"1e99"])
        if not content:
            break
    target.write_bytes(bytes(content))


GUARDED = """
import os, resource, signal, sys, time, warnings
import torch
import torch._dynamo  # which torch imports late, from wherever it is needed
from bayesprune.errors import BayesPruneError
from bayesprune.pruning import load
from tests.pruning.forge import verify_code

warnings.simplefilter("ignore")
torch.set_num_threads(1)  # so that time is that of this process, however busy the machine is
folder, files = sys.argv[1], int(sys.argv[2])
x = torch.linspace(-1, 1, 2 * 16).reshape(2, 1, 4, 4)
expected = load(f"{folder}/whole")(x)  # imports all that loading imports
seen, running = [], False

LIBRARIES = tuple({os.path.dirname(os.__file__), sys.prefix, sys.base_prefix, os.path.dirname(torch.__path__[0])})
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.remove", "os.rename", "os.mkdir", "os.chmod",
    "os.putenv", "os.kill", "os.link", "os.symlink", "os.truncate", "subprocess.", "socket.", "ctypes.", "pickle.",
    "shutil.", "builtins.input", "builtins.breakpoint", "pty.", "webbrowser.", "urllib.",
)

def watch(event, arguments):
    # torch may import parts of itself late; what it generates for a graph is checked by verify_code
    if not running:
        return
    if event in ("compile", "exec"):
        name = str(arguments[1]) if event == "compile" else arguments[0].co_filename
        if "<eval_with_key>" not in name and not name.startswith((*LIBRARIES, "<frozen")):
            seen.append((event, name))
    elif event == "open":
        writes = any(c in str(arguments[1]) for c in "wax+")
        if writes or not str(arguments[0]).startswith((folder, *LIBRARIES)):
            seen.append((event, arguments[:2]))
    elif event.startswith(FORBIDDEN):
        seen.append((event, str(arguments)[:200]))

def hung(*_):
    raise SystemExit("hung")

signal.signal(signal.SIGALRM, hung)
sys.addaudithook(watch)
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
ends = {"equal": 0, "refused": 0, "another network": 0, "cannot be applied": 0}
for i in range(files):
    path = f"{folder}/{i}"
    before = time.process_time()
    signal.alarm(60)
    running = True
    try:
        network = load(path)
    except BayesPruneError as error:
        assert "\\n" not in str(error) and len(str(error)) < 1000, (i, str(error))
        ends["refused"] += 1
    else:
        loaded = time.process_time()
        assert loaded - before < 5, (i, loaded - before)
        running = False
        verify_code(network)
        running = True
        try:
            output = network.forward(x)  # without fx's report on stderr
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, MemoryError, NotImplementedError):
            ends["cannot be applied"] += 1
        else:
            equal = isinstance(output, torch.Tensor) and torch.equal(output, expected)
            ends["equal" if equal else "another network"] += 1
            assert equal or not os.path.exists(f"{folder}/{i}.damaged"), i
    running = False
    signal.alarm(0)
    assert time.process_time() - before < 5, (i, time.process_time() - before)
    assert not seen, (i, seen)
print(ends)
"""


@pytest.mark.slow
def test_model_files_that_are_damaged_or_forged_at_random(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = tmp_path / "whole"
    save(Net().eval(), whole)
    draw = random.Random(SEED)
    for i in range(FILES):
        if i % 3:
            forge(whole, tmp_path / str(i), draw)
        else:
            damage(whole, tmp_path / str(i), draw)
            (tmp_path / f"{i}.damaged").touch()
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, tmp_path, str(FILES)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ends = json.loads(done.stdout.replace("'", '"'))
    assert sum(ends.values()) == FILES and ends["refused"] > FILES // 2
    assert ends["equal"] > 5 and ends["another network"] > 2  # the mutations are not all nonsense
    assert not list(tmp_path.rglob(CANARY)) and not Path(CANARY).exists()
