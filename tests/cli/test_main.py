"""The entry: quick answers, and Ctrl-C before the commands are there."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bayesprune.cli import main
from bayesprune.cli.commands import app
from bayesprune.cli.completing import WORDS, completing_app
from tests.cli.verify import run, verify_done
from tests.cli.words import words

INTERRUPTED = """
import os, signal, sys
from bayesprune.cli import main

class Library:
    # Takes every error in the import of torch for a missing dependency, as some libraries do.
    def find_spec(self, name, *args):
        if name == "torch":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                raise ImportError("no torch")

sys.meta_path.insert(0, Library())
sys.argv = ["bayesprune", "train"]
main()
"""

INTERRUPTED_LATER = """
import os, signal, sys
from bayesprune.cli import main
from bayesprune.cli.errors import Commands

Commands.parse_args = lambda *args: os.kill(os.getpid(), signal.SIGINT)
sys.argv = ["bayesprune", "train"]
main()
"""


def test_main_ends_with_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["bayesprune", "evaluate", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not the folder of a run")


def test_the_command_alone_says_what_can_be_done():
    said = run()
    assert said.exit_code == 2 and "bayesprune train my_module:make_net" in said.output
    for command in ("train", "inspect", "evaluate", "report", "export", "compare"):
        assert any(line.split()[:1] == [command] for line in said.output.splitlines()), said.output
    assert not any(line.endswith("...") for line in said.output.splitlines()[1:])  # no help is cut off


@pytest.mark.parametrize(("words", "completed"), [("bayesprune tr", "train"), ("bayesprune train --wei", "--wei")])
def test_the_shell_completes_commands_and_options(words: str, completed: str):
    count = len(words.split()) - 1
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(count), "_TYPER_COMPLETE_ARGS": words}
    for shell in ("bash", "zsh", "fish"):
        asked = environment | {"_BAYESPRUNE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        quick, real = (
            CliRunner().invoke(each, [], prog_name="bayesprune", env=asked).output for each in (completing_app(), app)
        )
        assert quick == real and completed in quick
        if shell == "bash":
            assert quick.split() and all(word.startswith(completed) for word in quick.split())
    assert "--show-completion" in run("--help").output


def test_what_a_shell_completes_are_the_commands_and_options_there_are():
    assert json.loads(WORDS.read_text(encoding="utf-8")) == words(), "write them by python -m tests.cli.words"


def test_the_version_is_the_same_by_the_quick_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["bayesprune", "--version"])
    main()
    assert capsys.readouterr().out == verify_done("--version")


@pytest.mark.parametrize(
    ("code", "rank", "said"),
    [(INTERRUPTED, "0", "Interrupted.\n"), (INTERRUPTED, "1", ""), (INTERRUPTED_LATER, "0", "Interrupted.\n")],
)
def test_an_interrupt_before_a_command_runs_is_one_line(code: str, rank: str, said: str):
    environment = {**os.environ, "LOCAL_RANK": rank}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)
