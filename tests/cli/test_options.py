"""Options of a command are the fields of a dataclass: type, default and help are said once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from bayesprune.cli.commands import app
from bayesprune.cli.config import RunConfig
from bayesprune.cli.options import defaults, name_of, option, takes_options_of


@dataclass(frozen=True, kw_only=True)
class Toy:
    size: int = option("How large.", 3)
    start_at: float | None = option("Where.", shown="the middle", before=None)
    quick: bool = option("Whether quickly.", False)


SEEN: list[dict[str, Any]] = []
toy = typer.Typer()


@toy.command()
@takes_options_of(Toy)
def run(ctx: typer.Context, out: Annotated[str, typer.Option(help="File.")] = "file", **options: Any) -> None:
    """Run."""
    SEEN.append({"out": out, **options})


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([], {"out": "file", "size": 3, "start_at": None, "quick": False}),
        (["--size", "5", "--start-at", "0.5"], {"out": "file", "size": 5, "start_at": 0.5, "quick": False}),
        (["--quick", "--out", "a"], {"out": "a", "size": 3, "start_at": None, "quick": True}),
        (["--no-quick"], {"out": "file", "size": 3, "start_at": None, "quick": False}),
    ],
)
def test_values_are_those_given_or_the_defaults(given: list[str], seen: dict[str, Any]) -> None:
    assert CliRunner().invoke(toy, given).exit_code == 0
    assert SEEN.pop() == seen


def test_a_value_of_another_type_is_refused() -> None:
    result = CliRunner().invoke(toy, ["--size", "large"])
    assert result.exit_code == 2 and "Invalid value for '--size'" in result.output


def test_help_says_what_the_fields_say() -> None:
    text = " ".join(CliRunner().invoke(toy, ["--help"]).output.split())
    for said in ("How large.", "[default: 3]", "Where.", "the middle", "--quick", "--no-quick"):
        assert said in text, text


def test_defaults_of_options_are_none_of_records() -> None:
    assert defaults(Toy) == {"size": 3, "start_at": None, "quick": False}
    with pytest.raises(TypeError, match="missing 2 required keyword-only arguments: 'size' and 'quick'"):
        Toy()
    assert asdict(Toy(size=1, quick=True)) == {"size": 1, "start_at": None, "quick": True}


def test_train_has_an_option_for_each_field_but_a_digest_and_four_more() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    names = [p.opts[0] for p in command.params if p.name != "help"]
    own = ["network", "--out", "--resume", "--tensorboard", "--json"]
    assert names == [*(name_of(name) for name in defaults(RunConfig)), *own]
    assert [field.name for field in fields(RunConfig) if field.name not in defaults(RunConfig)] == ["weights_sha256"]
    assert [p.name for p in command.params if not p.help] == []
