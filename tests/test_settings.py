"""The settings: documented as they are, all of use, and nowhere named that is none."""

import ast
import json
import logging
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest

from engine.cli import main
from engine.commands import limits
from engine.commands.settings import page
from engine.config import PREFIX, Config, SettingRefused
from engine.logs import JsonLines

ROOT: Final = Path(__file__).resolve().parent.parent
NAMES: Final = {field.name for field in fields(Config)}
DOCUMENTS: Final = (
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("deploy/*"),
    *(ROOT / name for name in ("docker-compose.yml", "Dockerfile", "Makefile", ".env.example")),
)


def test_the_reference_is_that_of_the_code() -> None:
    """One command makes it: `passby settings --reference > docs/reference/settings.md`."""
    assert (ROOT / "docs/reference/settings.md").read_text() == page()
    assert all(f"`{PREFIX}{name.upper()}`" in page() for name in NAMES)


def test_the_limits_are_those_of_the_code() -> None:
    """One command makes the page: `passby settings --limits > docs/reference/limits.md`."""
    assert (ROOT / "docs/reference/limits.md").read_text() == limits.page()


def test_every_setting_is_used() -> None:
    """Each is read somewhere besides the place that declares it."""
    read = {
        node.attr
        for path in (ROOT / "engine").rglob("*.py")
        if path.name != "config.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }

    assert NAMES - read == set()


def test_every_variable_named_is_a_setting() -> None:
    """An unknown one stops the start, so no page and no unit may name it."""
    named = {
        (path.name, name)
        for path in DOCUMENTS
        for name in re.findall(r"\bPASSBY_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }

    assert {(page, name) for page, name in named if name[7:].lower() not in NAMES} == set()


@pytest.mark.parametrize(
    "given",
    [
        {"log_format": "xml"},
        {"tls_key": "key.pem"},
        {"port": 70_000},
        {"poll_ms": 0},
        {"timezone": "Mars/Base"},
        {"cors_origins": "app.example"},
        {"cors_origins": "https://app.example/"},
        {"cors_origins": "https://good.example, https://App.example"},
    ],
)
def test_impossible_values_are_refused(given: dict[str, str]) -> None:
    """At the start, and the setting is named."""
    with pytest.raises(SettingRefused, match=next(iter(given))):
        Config(**given)  # type: ignore[arg-type]


def test_what_is_in_force_is_shown_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment and the flags, and of a secret only that it is set."""
    monkeypatch.setenv("PASSBY_OPERATOR_KEY", "very secret")
    monkeypatch.setenv("PASSBY_PORT", "1234")

    assert main(["settings", "--json", "--data", "/tmp/elsewhere"]) == 0
    shown = capsys.readouterr().out
    held = json.loads(shown)
    assert held.keys() == NAMES
    assert (held["port"], held["data"], held["operator_key"]) == (1234, "/tmp/elsewhere", "set")
    assert "very secret" not in shown


def test_a_line_of_the_json_log() -> None:
    """One object, on one line, with a fault's trace in it."""
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord(
            "engine.x", logging.ERROR, __file__, 1, "a %s\nline", ("broken",), sys.exc_info()
        )
    line = JsonLines().format(record)
    told = json.loads(line)

    assert "\n" not in line
    assert (told["level"], told["logger"], told["message"]) == (
        "error",
        "engine.x",
        "a broken\nline",
    )
    assert told["trace"].startswith("Traceback")
    assert "ValueError: wrong" in told["trace"]
    assert abs(told["at_ms"] - record.created * 1_000) <= 1
