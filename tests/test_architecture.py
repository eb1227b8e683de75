"""Which room may import which, read off the source; and that importing has no side effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import bayesprune

ROOT = Path(bayesprune.__file__).parent
RANKS = {
    **dict.fromkeys(("errors", "types"), 0),
    **dict.fromkeys(("arrays", "atomic", "checked", "markup", "schema"), 1),
    "arguments": 2,
    **dict.fromkeys(("distributions", "data", "metrics", "selection"), 3),
    "layers": 4,
    "ops": 5,
    "graph": 6,
    **dict.fromkeys(("networks", "infer", "optim", "pruning"), 7),
    **dict.fromkeys(("methods", "conversion"), 8),
    "training": 9,
    **dict.fromkeys(("reports", "sklearn", "lightning", "skorch"), 10),
    "comparison": 11,
    "cli": 12,
    "__main__": 13,
}
MODULES = {
    ".".join(("bayesprune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[1]


def resolve(source: str, name: str) -> str:
    """The module that ``from source import name`` reads: the submodule of that name, or ``source`` itself."""
    return f"{source}.{name}" if f"{source}.{name}" in MODULES else source


def imports(module: str) -> set[str]:
    """Modules of the package that ``module`` imports, anywhere in its source."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "bayesprune"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute, line {node.lineno}"
            if node.module and node.module.split(".")[0] == "bayesprune":
                found |= {resolve(node.module, alias.name) for alias in node.names}
    return found


INSIDE = [module for module in MODULES if module != "bayesprune"]


def test_every_room_has_a_rank() -> None:
    assert {room(module) for module in INSIDE} == set(RANKS)


@pytest.mark.parametrize("module", INSIDE)
def test_imports_are_from_lower_ranks(module: str) -> None:
    for imported in imports(module):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert imported != "bayesprune", f"{module} imports names from the package's front door"
        own, other = room(module), room(imported)
        if own == other:
            assert imported != f"bayesprune.{own}", f"{module} imports names that its own room re-exports"
        else:
            assert RANKS[other] < RANKS[own], f"{module} (rank {RANKS[own]}) imports {imported} (rank {RANKS[other]})"


def test_no_module_imports_itself_round_a_circle() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_public_names_exist(module: str) -> None:
    loaded = sys.modules.get(module) or __import__(module, fromlist=["*"])
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_the_front_door_is_sorted_and_complete() -> None:
    assert bayesprune.__all__ == sorted(bayesprune.__all__)
    contract = "layers BayesianNet distributions infer optim fit compact cost save load networks"
    assert set(contract.split()) <= set(bayesprune.__all__)


SETTINGS = """
import random, sys, warnings
import numpy, pyro, torch

def settings():
    return {
        "pyro": {k: str(v) for k, v in pyro.settings.get().items()},
        "params": list(pyro.get_param_store().keys()),
        "validation": torch.distributions.Distribution._validate_args,
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "torch rng": torch.get_rng_state().sum().item(),
        "numpy rng": numpy.random.get_state()[1].sum(),
        "python rng": random.getstate(),
        "hooks": (sys.excepthook is sys.__excepthook__, sys.gettrace()),
    }

torch.manual_seed(0); numpy.random.seed(0); random.seed(0)
before = settings()
import bayesprune
everything = [getattr(bayesprune, name) for name in bayesprune.__all__]
after = settings()
changed = [k for k in before if before[k] != after[k]]
assert not changed, changed
assert "bayesprune.cli" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""


def test_importing_changes_no_settings() -> None:
    done = subprocess.run([sys.executable, "-c", SETTINGS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
