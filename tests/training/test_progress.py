"""What `fit` shows: a bar on a terminal and nothing elsewhere, and a record that is one line."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace

import pytest

from bayesprune.training import History, Settings, fit
from tests.training.problems import Batches, bayesian, examples, units

REST = Settings(schedule={"sample_from": 1.0, "settle_from": 1.0, "fine_tune_from": 1.0})


class Terminal(io.StringIO):
    """Takes colours and moves of the cursor, as a terminal does."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None, **options: object) -> tuple[str, History]:
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        loader = Batches(*examples())
        history = fit(bayesian(units()), loader, epochs=3, settings=REST, **options)  # type: ignore[arg-type]
    return "" if stream is None else stream.getvalue(), history


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    text, history = shown(monkeypatch, Terminal())
    last = plain(text).strip().splitlines()[-1].split("\r")[-1]
    assert re.match(r"epoch 3/3 .*warm-up +loss \d\.\d{4}  gates with θ > ½ 14  params 68", last)
    assert f"{history.rows[-1].loss:.4f}" in last and "accuracy" not in last
    assert capsys.readouterr().out == ""


def test_accuracy_is_shown_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text, history = shown(monkeypatch, Terminal(), val_loader=Batches(*examples()))
    assert f"accuracy {100 * history.rows[-1].val_accuracy:5.2f} %" in plain(text)


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO(), None])
def test_nothing_is_shown_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, stream: io.StringIO | None
) -> None:
    text, _ = shown(monkeypatch, stream, progress=not isinstance(stream, Terminal))
    assert text == "" and capsys.readouterr().out == ""


class Torn(Batches):
    def __iter__(self):
        yield next(super().__iter__())
        raise KeyboardInterrupt


def test_the_bar_ends_with_a_run_that_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt):
        fit(bayesian(units()), Torn(*examples()), epochs=2)
    assert stream.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is visible again


def test_a_record_is_one_line() -> None:
    assert repr(History()) == "History(no epoch yet)"
    history = fit(bayesian(units()), Batches(*examples()), epochs=1, settings=REST)
    loss = history.rows[0].loss
    assert str(history) == repr(history) == f"History(1 epoch, loss {loss:.4f}, gates left 14 of 14, params 68)"
    history = History([replace(history.rows[0], val_accuracy=0.975)])
    assert f"loss {loss:.4f}, accuracy 97.50 %, gates left" in repr(history)
