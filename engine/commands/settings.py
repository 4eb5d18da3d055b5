"""`passby settings`: every setting with what is in force, and the page of the docs about them."""

import argparse
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import msgspec

from engine.commands import limits
from engine.commands.terminal import DONE, add_data
from engine.config import PREFIX, Config

MADE = "<!-- Made by `passby settings --reference > docs/reference/settings.md`; do not edit. -->\n"


def add(commands: Any) -> None:
    """Take the flags."""
    parser = commands.add_parser("settings", help="show every setting and what is in force")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--reference", action="store_true", help="print the docs' page instead")
    parser.add_argument("--limits", action="store_true", help="print the docs' page of the limits")
    add_data(parser)
    parser.set_defaults(run=_settings)


def _settings(config: Config, arguments: argparse.Namespace) -> int:
    """Show what is in force; what is secret is shown as set or not."""
    if arguments.reference:
        print(page(), end="")
        return DONE
    if arguments.limits:
        print(limits.page(), end="")
        return DONE
    held = {
        field.name: ("set" if getattr(config, field.name) else "")
        if field.metadata["secret"]
        else getattr(config, field.name)
        for field in fields(Config)
    }
    if arguments.json:
        print(msgspec.json.encode(held, enc_hook=str).decode())
    else:
        for name, value in held.items():
            print(f"{PREFIX + name.upper():<32} {value}")
    return DONE


def page() -> str:
    """The reference of the settings, in Markdown."""
    return "\n".join(
        [
            "# Settings\n",
            MADE,
            "Each is an environment variable; `--host`, `--port`, `--data` and `--database-url` "
            "are also flags, which win. An unknown `PASSBY_` variable stops the start, so that no "
            "typo is kept quiet, and so does an impossible value. `passby settings` shows what is "
            "in force. A number may not be below 0.\n",
            "| variable | default | what it is |",
            "|---|---|---|",
            *_rows(),
            "",
        ]
    )


def _rows() -> Iterator[str]:
    """A line of the table for each setting."""
    for field in fields(Config):
        default = f"`{field.default}`" if str(field.default) else "empty"
        secret = " Secret: never shown nor logged." if field.metadata["secret"] else ""
        yield f"| `{PREFIX + field.name.upper()}` | {default} | {field.metadata['text']}{secret} |"
