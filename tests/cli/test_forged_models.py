"""The folder of a run with a model file from elsewhere: evaluate and export say so in one line, and run no code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bayesprune.cli.folder import MODEL
from tests.cli.verify import verify_refused
from tests.pruning.forge import CANARY, Change, at, node, read_off_the_input, rewrite


def other_width(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The first layer takes one input more than there are."""
    layer = next(entry for entry in architecture["modules"] if entry["class"] == "Linear")
    layer["arguments"]["in_features"] += 1
    weight = tensors[f"{layer['name']}.weight"]
    tensors[f"{layer['name']}.weight"] = weight.new_zeros(len(weight), weight.shape[1] + 1)


def maps_for_logits(architecture: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    output = architecture["nodes"][-1]["args"]
    at(-1, node("call_method", "unsqueeze", [output[0], -1]))(architecture, tensors)
    output[0] = {"node": "evil"}


CASES: dict[str, tuple[Change, str]] = {
    "paths read off the input": (read_off_the_input, "its architecture is refused"),
    "another width": (other_width, "it cannot be applied to inputs of shape"),
    "no logits": (maps_for_logits, "are no logits"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_model_file_from_elsewhere(
    command: str, case: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    change, says = CASES[case]
    rewrite(finished / MODEL, change)
    before = sorted(os.listdir(finished))
    more = ("--format", "torch", "--out", finished / "net.pt2") if command == "export" else ()
    verify_refused(command, finished, *more, says=(says,))
    assert sorted(os.listdir(finished)) == before and not Path(CANARY).exists()
    assert capfd.readouterr().err == ""
