"""Trained weights out of a file of safetensors or a saved ``state_dict``, and into a network."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import load as tensors_of
from torch import Tensor, nn

from bayesprune.atomic import file_errors
from bayesprune.errors import CheckpointError, ConfigError

COUNTER = "num_batches_tracked"
"""The number of batches that a normalisation has seen, which older files do not have."""


@dataclass(frozen=True)
class TrainedWeights:
    """What a file of weights holds.

    Attributes:
        path: The file.
        tensors: By name.
        sha256: Digest of the file.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TrainedWeights:
        """Read a file of safetensors, or one that ``torch.save(model.state_dict(), path)`` wrote; no code in it runs.

        Raises:
            CheckpointError: for a file that is missing or holds anything else.
            FileError: if it cannot be read.
        """
        path = Path(path)
        with file_errors("read", path):
            if not path.is_file():
                raise CheckpointError(f"{path}: there is no such file of weights; give safetensors or a state_dict")
            content = path.read_bytes()
        try:
            # The header of safetensors, a table in JSON, begins after the eight bytes of its length.
            if content[8:9] == b"{":
                found = tensors_of(content)
            else:
                found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file provokes
            raise CheckpointError(f"{path}: neither safetensors nor a state_dict; {_ADVICE}") from error
        if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
            raise CheckpointError(f"{path}: holds no table of tensors by name; {_ADVICE}")
        return cls(path, found, hashlib.sha256(content).hexdigest())

    def put_into(self, network: nn.Module, head: Collection[str]) -> None:
        """Give a network these weights. A head of another number of classes stays as it is, with a warning.

        Args:
            network: The network, changed in place.
            head: Names of its tensors whose shapes go by the number of classes.

        Raises:
            ConfigError: if a tensor is missing, is not the network's, or has another shape or kind of number.
        """
        own = network.state_dict()
        left = [name for name in own if name in head and name in self.tensors and self._other_classes(name, own[name])]
        for name in self.tensors:
            if name not in own:
                raise ConfigError(f"{self.path}: holds {name}, which the network has not; {_OTHER}")
        for name, value in own.items():
            if name not in self.tensors and not name.endswith(COUNTER):
                raise ConfigError(f"{self.path}: has no {name}, which the network has; {_OTHER}")
            if name in self.tensors and name not in left and not self._fits(name, value):
                raise ConfigError(
                    f"{self.path}: {name} is {_kind(self.tensors[name])}, that of the network {_kind(value)}; {_OTHER}"
                )
        network.load_state_dict({**own, **{name: self.tensors[name] for name in self.tensors if name not in left}})
        if left:
            given, wanted = len(self.tensors[left[-1]]), len(own[left[-1]])
            warnings.warn(
                f"{self.path}: its head ({', '.join(left)}) is for {given} classes, the data have {wanted}: it is left "
                "out, and the network's own begins at random",
                stacklevel=2,
            )

    def _other_classes(self, name: str, own: Tensor) -> bool:
        """Whether the tensor of a name, part of a head, differs from the network's own in nothing but the classes.

        Args:
            name: A name that the file has.
            own: The network's tensor, classes first.
        """
        given = self.tensors[name]
        return given.dim() == own.dim() and given.shape[1:] == own.shape[1:] and len(given) != len(own)

    def _fits(self, name: str, own: Tensor) -> bool:
        """Whether the tensor of a name could take the place of the network's own.

        Args:
            name: A name that the file has.
            own: The network's tensor.
        """
        given = self.tensors[name]
        return given.shape == own.shape and given.is_floating_point() == own.is_floating_point()


_ADVICE = "write one with torch.save(model.state_dict(), FILE) or safetensors.torch.save_file"
_OTHER = "give weights of the same network"


def _kind(tensor: Tensor) -> str:
    """Shape and kind of number, for messages."""
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
