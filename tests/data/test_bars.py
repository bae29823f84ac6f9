"""Bars move in a terminal and in a notebook, and are not kept in a log."""

import sys

import pytest

from nstorm.data.bars import bar


@pytest.mark.parametrize(
    ("is_terminal", "modules", "show", "is_seen"),
    [
        (True, {}, True, True),
        (False, {"ipykernel": None}, True, True),
        (False, {}, True, False),
        (True, {}, False, False),
    ],
)
def test_where_bars_are_seen(is_terminal, modules, show, is_seen, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "modules", {**sys.modules, **modules})
    assert list(bar(range(3), "count", show=show)) == [0, 1, 2]
    assert ("count: 100%" in capsys.readouterr().err) == is_seen
