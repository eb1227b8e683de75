"""What the tests of distributions share."""

from collections.abc import Iterator
from decimal import Context, localcontext

import pytest


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    """Decimals have 60 digits and any exponent."""
    with localcontext(Context(prec=60, Emin=-999999, Emax=999999)):
        yield
