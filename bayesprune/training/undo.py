"""An epoch that fails leaves the network as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bayesprune.methods.protocol import Model
from bayesprune.training.engine import Engine


@contextmanager
def undone_if_broken_off(net: Model, engine: Engine) -> Iterator[None]:
    """Bring ``net`` back to where it was, gates that went included, if the context ends with an error or with Ctrl-C.

    Where processes divide the weights among them it is left as it is, since others may not have met the error.
    """
    back = None if engine.divides else net.snapshot()
    try:
        yield
    except BaseException:
        if back is not None:
            back()
        raise
