"""Eval mode for a while, for one thread or several."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_LOCK = threading.Lock()
_LEFT_TRAINING: dict[nn.Module, int] = {}
"""Modules that some contexts took out of training mode, with the number of contexts that hold them there."""


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Let ``net`` be in eval mode within the context; afterwards each of its modules is in the mode it was in.

    Contexts of several threads may overlap: modules go back to training as the last of them ends.
    """
    with _LOCK:
        held = [module for module in net.modules() if module.training or module in _LEFT_TRAINING]
        for module in held:
            _LEFT_TRAINING[module] = _LEFT_TRAINING.get(module, 0) + 1
        net.eval()
    try:
        yield
    finally:
        with _LOCK:
            for module in held:
                _LEFT_TRAINING[module] -= 1
                if not _LEFT_TRAINING[module]:
                    del _LEFT_TRAINING[module]
                    module.training = True
