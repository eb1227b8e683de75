"""Hand a compacted network to other tools, through torch's own exporters."""

from __future__ import annotations

import copy
import inspect
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bayesprune.arguments import checked_arguments
from bayesprune.atomic import file_errors, write_atomically
from bayesprune.data.inputs import Inputs, as_call, as_inputs, called, tensors_of
from bayesprune.errors import ConfigError
from bayesprune.graph.misfit import misfits_named

LARGEST_ONNX = 2**31
"""Bytes from which on a network is too large for a file of ONNX's format."""


@checked_arguments
def export_torch(model: nn.Module, example_input: Any, path: str | os.PathLike[str]) -> None:
    """Write ``model`` in eval mode, for any batch size, as a program that ``torch.export.load`` reads.

    The program's ``module()`` is called as the model is: with inputs by place, or by name.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2 (several in a tuple, or a dict by name).
        path: File to write, ending in ``.pt2``.

    Raises:
        ConfigError: for fewer than two examples, another ending, or a folder that does not exist.
        DataError: for examples that the network does not take.
        FileError: if the file cannot be written.
    """
    inputs = _checked(example_input, path, ".pt2")
    net = copy.deepcopy(model).eval()
    _outputs(net, inputs)
    args, kwargs = as_call(inputs)
    with _without_false_alarms():
        program = torch.export.export(net, args, kwargs, dynamic_shapes=_any_batch(net, inputs))
    content = io.BytesIO()  # torch's own writer of files ends the process where a disk is full
    torch.export.save(program, content)
    write_atomically(Path(path), content.getvalue())


@checked_arguments
def export_onnx(model: nn.Module, example_input: Any, path: str | os.PathLike[str]) -> None:
    """Write an ONNX file of ``model`` in eval mode, for any batch size.

    One input is called ``input``, and several as the parameters of the model's ``forward``. One output is called
    ``output``, those of a mapping by their keys, and others ``output_0``, ``output_1`` and so on.

    Args:
        model: A compacted network; it stays as it is.
        example_input: Inputs, shape ``(B, ...)``, B ≥ 2 (several in a tuple, or a dict by name).
        path: File to write, ending in ``.onnx``.

    Raises:
        ConfigError: for fewer than two examples, another ending, a folder that does not exist, or without the
            ``onnx`` extra; for a network of more than 2 GB, which ONNX keeps in several files.
        DataError: for examples that the network does not take.
        FileError: if the file cannot be written.
    """
    inputs = _checked(example_input, path, ".onnx")
    if sum(tensor.nbytes for tensor in model.state_dict().values()) >= LARGEST_ONNX:
        raise ConfigError("export_onnx: one ONNX file holds less than 2 GB; use export_torch")
    net = copy.deepcopy(model).eval()
    outputs, shapes = _names(_outputs(net, inputs)), _any_batch(net, inputs)
    args, kwargs = as_call(inputs)
    try:
        with _without_false_alarms():
            program = torch.onnx.export(
                net, args, kwargs=kwargs, dynamo=True, dynamic_shapes=shapes,
                input_names=["input"] if len(shapes) == 1 else [*shapes], output_names=outputs, verbose=False,
            )  # fmt: skip
    except ImportError as error:
        raise ConfigError(f"export_onnx: {error.name or error} is missing; pip install 'bayesprune[onnx]'") from error
    assert program is not None
    write_atomically(Path(path), program.model_proto.SerializeToString())


@contextmanager
def _without_false_alarms() -> Iterator[None]:
    """A context in which torch's exporters do not warn of what comes out right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used")  # for a second input: it is
        warnings.filterwarnings("ignore", r"The tensor attributes .*_flat_weights")  # of an LSTM, which are parameters
        yield


def _outputs(net: nn.Module, inputs: Inputs) -> Any:
    """What a network gives, which takes its inputs.

    Args:
        net: The network.
        inputs: Its inputs.

    Raises:
        DataError: for inputs that it does not take.
    """
    with torch.no_grad(), misfits_named(net, inputs, "export"):
        return called(net, inputs)


def _any_batch(net: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """By parameter of a network's forward pass, that its first dimension is the batch.

    Args:
        net: The network.
        inputs: Its inputs.
    """
    args, kwargs = as_call(inputs)
    batch = {0: torch.export.Dim("batch")}
    given = inspect.signature(net.forward).bind(*args, **kwargs).arguments
    return {name: pytree.tree_map(lambda _: batch, value) for name, value in given.items()}


def _names(outputs: Any) -> list[str]:
    """What the tensors that a network gives are called."""
    if isinstance(outputs, Tensor):
        return ["output"]
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return [str(name) for name in outputs]
    return [f"output_{place}" for place in range(len(pytree.tree_leaves(outputs)))]


def _checked(example_input: Any, path: str | os.PathLike[str], ending: str) -> Inputs:
    """The inputs, for what an exporter could work with.

    Args:
        example_input: Inputs, as a user gives them.
        path: The file.
        ending: How its name must end.
    """
    inputs = as_inputs(example_input)
    if any(x.dim() == 0 or len(x) < 2 for x in tensors_of(inputs)):
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors_of(inputs))
        raise ConfigError(f"export: give an example_input of at least two examples, got shape {shapes}")
    if Path(path).suffix != ending:
        raise ConfigError(f"export: the file's name must end in {ending}, got {Path(path).name!r}")
    with file_errors("write", path):
        if not Path(path).parent.is_dir():
            raise ConfigError(f"export: the folder {Path(path).parent} does not exist; make it first")
        if Path(path).is_dir():
            raise ConfigError(f"export: {path} is a folder; give the name of a file")
    return inputs
