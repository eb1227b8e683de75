"""Our own method: gates learned by variational inference, and structures removed whose gates end at 0."""

from bayesprune.methods.svi.method import SVI

__all__ = ["SVI"]
