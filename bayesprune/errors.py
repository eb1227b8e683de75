"""The exceptions that bayesprune raises on purpose.

Every message says where, what was expected, what was found, and what to try. Each class also derives from the built-in
exception that callers would expect, so ``except ValueError`` keeps working.
"""


class BayesPruneError(Exception):
    """Base of all errors raised by bayesprune."""


class ConfigError(BayesPruneError, ValueError):
    """An argument, a name or a combination of settings that cannot work."""


class DataError(BayesPruneError, ValueError):
    """A data set that is missing, empty or holds values a model cannot be trained on."""


class GateError(BayesPruneError, ValueError):
    """A gate in a place, or of a size, where switching it off would not equal removing its structure."""


class TraceError(BayesPruneError, TypeError):
    """A network whose forward pass cannot be followed, so that its structures cannot be removed."""


class CheckpointError(BayesPruneError, RuntimeError):
    """A checkpoint or model file that is truncated, tampered with or made by something else."""


class FileError(BayesPruneError, OSError):
    """A file that the system will not write or read: the disk is full, its folder is gone, its name is too long."""


class NonFiniteLossError(BayesPruneError, FloatingPointError):
    """The training loss, or a running statistic of the network, became NaN or infinite."""


class DeviceMemoryError(BayesPruneError, RuntimeError):
    """A batch that does not fit into the memory of its device."""


class RankError(BayesPruneError, RuntimeError):
    """Processes that train one network together and no longer hold the same one."""
