"""Hand a compacted network to other tools, through torch's own exporters."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import file_errors, write_atomically
from bayesprune.errors import ConfigError
from bayesprune.graph.misfit import misfits_named

LARGEST_ONNX = 2**31
"""Bytes from which on a network is too large for a file of ONNX's format."""


@checked_arguments
def export_torch(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> None:
    """Write ``model`` in eval mode, for any batch size, as a program that ``torch.export.load`` reads.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2.
        path: File to write, ending in ``.pt2``.

    Raises:
        ConfigError: for fewer than two examples, another ending, or a folder that does not exist.
        DataError: for examples that the network does not take.
        FileError: if the file cannot be written.
    """
    _check(example_input, path, ".pt2")
    shapes = ({0: torch.export.Dim("batch")},)
    net = copy.deepcopy(model).eval()
    with torch.no_grad(), misfits_named(net, example_input, "export"):
        net(example_input)
    program = torch.export.export(net, (example_input,), dynamic_shapes=shapes)
    content = io.BytesIO()  # torch's own writer of files ends the process where a disk is full
    torch.export.save(program, content)
    write_atomically(Path(path), content.getvalue())


@checked_arguments
def export_onnx(model: nn.Module, example_input: Tensor, path: str | os.PathLike[str]) -> None:
    """Write an ONNX file of ``model`` in eval mode, for any batch size, with input ``input`` and output ``output``.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2.
        path: File to write, ending in ``.onnx``.

    Raises:
        ConfigError: for fewer than two examples, another ending, a folder that does not exist, or without the
            ``onnx`` extra; for a network of more than 2 GB, which ONNX keeps in several files.
        FileError: if the file cannot be written.
    """
    _check(example_input, path, ".onnx")
    if sum(tensor.nbytes for tensor in model.state_dict().values()) >= LARGEST_ONNX:
        raise ConfigError("export_onnx: one ONNX file holds less than 2 GB; use export_torch")
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        program = torch.onnx.export(
            copy.deepcopy(model).eval(), (example_input,), dynamo=True, dynamic_shapes=shapes,
            input_names=["input"], output_names=["output"], verbose=False,
        )  # fmt: skip
    except ImportError as error:
        raise ConfigError(f"export_onnx: {error.name or error} is missing; pip install 'bayesprune[onnx]'") from error
    assert program is not None
    write_atomically(Path(path), program.model_proto.SerializeToString())


def _check(example_input: Tensor, path: str | os.PathLike[str], ending: str) -> None:
    """Refuse what no exporter could work with.

    Args:
        example_input: Inputs.
        path: The file.
        ending: How its name must end.
    """
    if example_input.dim() == 0 or len(example_input) < 2:
        raise ConfigError(
            f"export: give an example_input of at least two examples, got shape {tuple(example_input.shape)}"
        )
    if Path(path).suffix != ending:
        raise ConfigError(f"export: the file's name must end in {ending}, got {Path(path).name!r}")
    with file_errors("write", path):
        if not Path(path).parent.is_dir():
            raise ConfigError(f"export: the folder {Path(path).parent} does not exist; make it first")
        if Path(path).is_dir():
            raise ConfigError(f"export: {path} is a folder; give the name of a file")
