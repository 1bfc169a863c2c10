"""`posttrain explain` and `posttrain ls`: what they print of a function."""

from __future__ import annotations

import pytest

from posttrain import registry
from posttrain.cli import main
from posttrain.inputs import LOSS_INPUTS


def test_each_input_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "losses", "dpo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in registry.losses.entry("dpo").inputs:
        (line,) = [text for text in lines if text.split()[:1] == [name]]
        row = LOSS_INPUTS[name]
        assert row.shape in line and row.meaning in line and row.producer in line
    assert any(text.startswith("per: pair") for text in lines)
    settings = "\n".join(lines[lines.index("settings:") :])
    assert "divergence" in settings and "reverse_kl" in settings and "js" in settings


@pytest.mark.parametrize(
    ("kind", "name"), [("advantages", "gdpo"), ("search", "weighted_vote"), ("rewards", "tags")]
)
def test_other_kinds(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", kind, name]) == 0
    text = capsys.readouterr().out
    assert "inputs:" in text and name in text


def test_losses_are_listed_by_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = {text.split()[0]: i for i, text in enumerate(lines) if text.strip()}
    assert registry.losses.names() and set(registry.losses.names()) <= places.keys()
    between = lines[places["dpo"] : places["simpo"]]
    assert any(text == "" for text in between)
    assert not any(text == "" for text in lines[places["dpo"] : places["ipo"]])
