"""The names that a shell completes, off the commands themselves; ``python -m tests.cli.words`` writes them down."""

from __future__ import annotations

import json
from typing import Any

import typer.main

from bayesprune.cli.commands import app
from bayesprune.cli.completing import WORDS

TYPERS = ("--help", "--install-completion", "--show-completion")
"""Options that every app of Typer's has."""


def options_of(command: Any) -> dict[str, Any]:
    found = {}
    for param in command.params:
        if param.param_type_name == "option" and not set(TYPERS).intersection(param.opts):
            flags = "/".join((*param.opts, *param.secondary_opts))
            found[flags] = {"help": param.help, "value": not param.is_flag}
    return found


def words() -> dict[str, Any]:
    group = typer.main.get_command(app)
    commands = {name: {"help": each.short_help, "options": options_of(each)} for name, each in group.commands.items()}
    return {"options": options_of(group), "commands": commands}


if __name__ == "__main__":
    WORDS.write_text(json.dumps(words(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
