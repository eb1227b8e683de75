"""Hand a compacted network to other tools, through torch's own exporters."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.errors import ConfigError


@checked_arguments
def export_torch(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> None:
    """Write ``model`` in eval mode, for any batch size, as a program that ``torch.export.load`` reads.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2.
        path: File to write, ending in ``.pt2``.

    Raises:
        ConfigError: for fewer than two examples, another ending, or a folder that does not exist.
    """
    _check(example_input, path, ".pt2")
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(copy.deepcopy(model).eval(), (example_input,), dynamic_shapes=shapes)
    _write_whole(path, lambda temporary: torch.export.save(program, temporary))


@checked_arguments
def export_onnx(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> None:
    """Write an ONNX file of ``model`` in eval mode, for any batch size, with input ``input`` and output ``output``.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2.
        path: File to write, ending in ``.onnx``.

    Raises:
        ConfigError: for fewer than two examples, another ending, a folder that does not exist, or without the
            ``onnx`` extra.
    """
    _check(example_input, path, ".onnx")
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.onnx.export(
            copy.deepcopy(model).eval(), (example_input,), dynamo=True, dynamic_shapes=shapes,
            input_names=["input"], output_names=["output"], verbose=False,
        )  # fmt: skip
    except ImportError as error:
        raise ConfigError(f"export_onnx: {error.name or error} is missing; pip install 'bayesprune[onnx]'") from error
    assert program is not None
    _write_whole(path, lambda temporary: program.save(temporary))


def _check(example_input: Tensor, path: str | os.PathLike[str], ending: str) -> None:
    if example_input.dim() == 0 or len(example_input) < 2:
        raise ConfigError(
            f"export: give an example_input of at least two examples, got shape {tuple(example_input.shape)}"
        )
    if Path(path).suffix != ending:
        raise ConfigError(f"export: the file's name must end in {ending}, got {Path(path).name!r}")
    if not Path(path).parent.is_dir():
        raise ConfigError(f"export: the folder {Path(path).parent} does not exist; make it first")


def _write_whole(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Let ``write`` write in a temporary folder beside ``path``, then move the file into place."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".export.") as folder:
        temporary = Path(folder) / Path(path).name
        write(str(temporary))
        os.replace(temporary, path)
