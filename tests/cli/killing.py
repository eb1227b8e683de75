"""A process in which everything is imported, out of which runs are forked and killed: ``python -m tests.cli.killing``.

It reads one order a line, JSON: ``args`` of the command, and when to kill it: ``after`` so many seconds, or at the
``call``-th of the system calls by which files are written, before or after it. It answers each with ``status``, the
exit code or minus the signal, ``seconds`` and ``calls``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
from typing import Any

from bayesprune.cli.commands import app

CALLS = ("fsync", "chmod", "replace")
"""Functions of `os` that `write_atomically` calls for each file, in this order."""


def serve() -> None:
    warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.close(reading)
            perform(order, writing)
        os.close(writing)
        status = wait(child, began + order["after"] if "after" in order else None)
        seconds = time.perf_counter() - began
        with os.fdopen(reading, "rb") as pipe:
            calls = len(pipe.read())
        print(json.dumps({"status": status, "seconds": seconds, "calls": calls}), flush=True)


def warm_up() -> None:
    """Do a short run, so that no child has to import what runs import when they come to it; most of it is torch's."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        app(["train", "--epochs", "1", "--limit", "100", "--out", f"{folder}/run"], standalone_mode=False)


def wait(child: int, deadline: float | None) -> int:
    """The exit status of a child, which is killed at the deadline."""
    while True:
        done, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        assert deadline is not None
        if time.perf_counter() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.0005)


def perform(order: dict[str, Any], writing: int) -> None:
    """Run the command in this process, the child, and end it."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            os.write(writing, b".")
            if count == order.get("call") and order["before"]:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if count == order.get("call"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    code = 0
    try:
        app(order["args"], prog_name="bayesprune")
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        code = 99
    os._exit(code)


if __name__ == "__main__":
    serve()
