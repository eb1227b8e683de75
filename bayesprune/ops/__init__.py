"""One record for every operation: what it does to entries, how it is cut, counted and written to a file.

Every file of this folder is imported and registers its records: a new operation is a new file, or a record in one. Its
rule is given the call and says which entries of the output come from which of the inputs (`Flow`), which inputs are
mixed (`Read`), what of constants is left (`Features.value`), and what goes together (``ties``). Most need no rule of
their own: functions of single numbers have ``entries=entrywise.pointwise``, and those that only move entries
``moves=True``. What it claims is tried on numbers by tests/ops/test_records.py.
"""

from importlib import import_module
from pkgutil import iter_modules

from bayesprune.ops.call import NEEDS_SHAPES, Call, Following, name_of
from bayesprune.ops.features import Features, Flow, Read, Step, barrier
from bayesprune.ops.registry import OPERATIONS, Operation, Parts, draws, operation_of, register

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")

__all__ = [
    "NEEDS_SHAPES",
    "OPERATIONS",
    "Call",
    "Features",
    "Flow",
    "Following",
    "Operation",
    "Parts",
    "Read",
    "Step",
    "barrier",
    "draws",
    "name_of",
    "operation_of",
    "register",
]
