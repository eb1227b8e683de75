"""Seeds that follow from torch's random numbers without using any up."""

from __future__ import annotations

import hashlib

import torch

from bayesprune.training.engine import Engine


def next_seed(engine: Engine) -> int:
    """A seed that follows from the random numbers that come next in process 0, and leaves them to be drawn."""
    state = torch.get_rng_state().numpy().tobytes()
    return int(engine.broadcast(int.from_bytes(hashlib.sha256(state).digest()[:7], "big")))
