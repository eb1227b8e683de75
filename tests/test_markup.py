"""What notebooks show of networks, gates and histories: tables whose every cell is right, and nothing that runs."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.markup import html_table
from bayesprune.training.history import SHOWN, EpochRow, History


class Cells(HTMLParser):
    """Reads a table: its caption, and its cells row by row; complains about what is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.caption, self.rows = "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert (tag == "th") == bool(dict(attrs).get("scope"))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def test_a_table_holds_what_it_is_given_and_no_markup_of_others() -> None:
    read = Cells(html_table("a < b", ["name", "x & y"], [["<script>", '"1"'], ["second", "2"]]))
    assert read.caption == "a < b"
    assert read.rows == [["name", "x & y"], ["<script>", '"1"'], ["second", "2"]]


def row(epoch: int) -> EpochRow:
    accuracy = 0.975 if epoch > 1 else float("nan")
    return EpochRow(epoch, "train", 0.5, 0.4, 0.6, accuracy, 7, 1.0, 1234, 98765, 1.5)


@pytest.mark.parametrize("epochs", [0, 1, 2, SHOWN, SHOWN + 1, 100])
def test_a_history_shows_a_few_epochs_and_always_the_last(epochs: int) -> None:
    history = History(rows=[row(epoch) for epoch in range(1, epochs + 1)])
    read = Cells(history._repr_html_())
    shown = [int(line[0]) for line in read.rows[1:]]
    assert read.caption == repr(history)
    assert len(shown) <= SHOWN and shown == sorted(set(shown)) and (not epochs or shown[-1] == epochs)
    assert epochs > SHOWN or len(shown) == epochs
    if epochs > 1:
        assert read.rows[-1] == [str(epochs), "train", "0.5000", "97.50 %", "7", "1,234", "98,765"]
    if epochs == 1:
        assert read.rows[-1][3] == "–"


def test_a_network_shows_its_gates_and_what_they_rule() -> None:
    net = nn.Sequential(layers.Linear(2, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 1))
    bnn = bp.BayesianNet(net, "gaussian", num_data=10)
    with torch.no_grad():
        bnn.theta.copy_(torch.tensor([1.0, 0.5, 0.25, 0.0]))
    read = Cells(bnn._repr_html_())
    assert read.caption == "BayesianNet with 4 gates"
    assert read.rows[1:] == [["0", "4", "1.8", "0.00", "1.00"]]
    found = bp.structures(net, example_input=torch.zeros(1, 2))
    table = Cells(found._repr_html_())
    assert table.caption == str(found).splitlines()[-1]
    assert table.rows[1] == ["unit", "0", "4", "100.0%", "0, 2"]
