"""temporary"""
from bayesprune.layers import gates_of
def check_gates(net):
    from bayesprune.errors import GateError
    if not gates_of(net):
        raise GateError("no gates")
