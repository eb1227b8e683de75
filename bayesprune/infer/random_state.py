"""The state of torch's random number generators, to be taken up again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RandomState:
    """The random numbers that the host and one device will give next."""

    device: torch.device
    host: Tensor
    accelerator: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present state."""
        return cls(device, torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    @classmethod
    def of(cls, device: torch.device, tensors: list[Tensor]) -> RandomState:
        """The state that `tensors` gave."""
        return cls(device, tensors[0], tensors[1] if len(tensors) > 1 and device.type == "cuda" else None)

    def tensors(self) -> list[Tensor]:
        """The state as tensors on the host."""
        return [self.host] if self.accelerator is None else [self.host, self.accelerator]

    def restore(self) -> None:
        """Make it the present one again."""
        torch.set_rng_state(self.host)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)
