"""The reference pages that are made from the tables: routes, errors, and the words of decisions.

``python -m engine.web.reference docs/reference`` writes them; a test holds them to the tables.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from engine.consent.law import AGE_BANDS, SIGNALS, Laws, read_pack
from engine.consent.vocabulary import (
    ACTION_TERMS,
    ACTORS_MEAN,
    CHANNELS_MEAN,
    DATA_TERMS,
    EFFECTS_MEAN,
    PURPOSE_TERMS,
)
from engine.consent.zones import KINDS
from engine.decision import EVENT_KINDS, STATUSES, WITHHELD
from engine.ping import REJECT_CODES
from engine.web.auth import ROLES
from engine.web.openapi import document
from engine.web.problem import CODES
from engine.web.route import Route, is_nothing
from engine.web.routes import ROUTES
from engine.web.vocabulary import laws_told

_MADE = "<!-- Made by `python -m engine.web.reference docs/reference`; do not edit. -->\n"


def pages() -> dict[str, str]:
    """File name -> text."""
    return {
        "api.md": _api(),
        "errors.md": _errors(),
        "decisions.md": _decisions(),
        "vocabulary.md": _vocabulary(),
    }


def _api() -> str:
    """Every route: who may call it, what it takes, what it answers."""
    by_tag: dict[str, list[Route]] = defaultdict(list)
    for route in ROUTES:
        by_tag[route.tag].append(route)
    described = document(ROUTES)
    parts = [
        "# The HTTP API\n",
        _MADE,
        "`GET /openapi.json` describes the same in OpenAPI 3.1, with the schema of every body. "
        "Errors are problem+json with a stable `code`; [errors.md](errors.md) lists them.\n",
        "## Roles\n",
        "`Authorization: Bearer <key>`. A key has one role.\n",
        _table(("role", "may"), ROLES.items()),
    ]
    for tag, routes in by_tag.items():
        parts.append(f"## {tag.capitalize()}\n")
        parts += [_route(route, described) for route in routes]
    return "\n".join(parts)


def _route(route: Route, described: Mapping[str, Any]) -> str:
    """One route."""
    operation = described["paths"][route.path][route.method.lower()]
    statuses = ", ".join(str(status) for status in route.statuses)
    roles = ", ".join(f"`{role}`" for role in route.roles) or "anybody"
    parts = [f"### `{route.name}`\n", f"{route.summary} For {roles}. Success: {statuses}.\n"]
    if route.about:
        parts.append(route.about + "\n")
    if told := operation.get("parameters"):
        rows = [(f"`{one['name']}`", one["in"], _schema(one["schema"])) for one in told]
        parts.append(_table(("parameter", "in", "type"), rows))
    if body := operation.get("requestBody"):
        forms = body["content"]
        told = "" if len(forms) == 1 else f", as {', '.join(f'`{form}`' for form in forms)}"
        parts.append(f"Body: {_schema(next(iter(forms.values()))['schema'])}{told}.\n")
    if not is_nothing(route.signature().result):
        content = operation["responses"][str(route.statuses[0])]["content"][route.content_type]
        parts.append(f"Answer: {_schema(content['schema'])}.\n")
    if route.example is not None:
        told = msgspec.json.format(msgspec.json.encode(route.example)).decode()
        parts.append(f"```json\n{told}\n```\n")
    parts.append(f"Errors: {', '.join(f'`{code}`' for code in route.all_codes())}.\n")
    return "\n".join(parts)


def _schema(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_schema(one) for one in schema[several])
    words = str(schema.get("type", "any"))
    if "minimum" in schema and "maximum" in schema:
        words += f" {schema['minimum']} to {schema['maximum']}"
    if schema.get("default") is not None:
        words += f", {schema['default']} by default"
    return words


def _errors() -> str:
    """Every code of an error."""
    rows = [
        (f"`{code}`", str(kind.status), kind.title, kind.meaning) for code, kind in CODES.items()
    ]
    return "\n".join(
        (
            "# Errors\n",
            _MADE,
            "An error is `application/problem+json` (RFC 9457): `title`, `status`, `code`, "
            "`detail`, and `errors` with `path`, `code` and `detail` where several or nested "
            "things were wrong. Branch on `code`: it is stable. No error holds a position or a "
            "resident's id. 429 and 503 carry `Retry-After`, in seconds.\n",
            _table(("code", "status", "title", "what is right"), rows),
        )
    )


def _decisions() -> str:
    """The words that a decision is made of."""
    return "\n".join(
        (
            "# Decisions\n",
            _MADE,
            "A ping is answered with one decision.\n",
            "## `next_fix`\n",
            'With `decided`, for a ping that asks with `"next_fix": true`: when the next fix would '
            "matter. A phone that can tell how far it has "
            "moved, as by a distance filter, sends its next fix when it is `radius_m` metres from "
            "this one, or after `latest_s` seconds; one that can't, after `after_s` seconds. Then "
            "it enters, stays and leaves by the same fixes as a phone that sends them all, as far "
            "as an offer waits at the fence. `after_s` supposes at most twice the speed that the "
            "phone moves at, and at least 3 m/s. 0 means that the very next fix may matter.\n",
            "## `status`\n",
            "Of several the first that applies is given; `shed` can replace any.\n",
            _table(("status", "meaning"), _words(STATUSES)),
            "## `withheld`\n",
            "The gate that the furthest candidate failed, in the order of the gates; null where an "
            "offer was made or none was waiting.\n",
            _table(("reason", "meaning"), _words(WITHHELD)),
            "## `events[].kind`\n",
            f"One ping tells them in this order: {', '.join(f'`{kind}`' for kind in EVENT_KINDS)}.",
            "\n## `reject.code`\n",
            "Of a ping that was `rejected`: "
            + ", ".join(f"`{code}`" for code in REJECT_CODES)
            + ", or `invalid_ping` for one of many that could not be read. In a stream also "
            "`malformed_json` for a line or message that is no JSON, and `foreign_resident` for a "
            "ping of somebody else than the key's resident. Of one that was `shed`: `not_durable`, "
            "`stale`, `overloaded`, or, in a stream, `too_many_requests`.\n",
        )
    )


def _words(words: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"`{word}`", meaning) for word, meaning in words.items()]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _vocabulary() -> str:
    """The words of consent, and the laws of every pack that is shipped."""
    packs = sorted((files("engine.consent") / "packs").iterdir(), key=lambda file: file.name)
    shipped = [read_pack(file.read_bytes()) for file in packs]
    parts = [
        "# The words of consent\n",
        _MADE,
        "A lane is a purpose, an action and a kind of data, such as "
        "`offers:use:precise_location`: 8 x 4 x 8 of them. Each word has its term of the W3C Data "
        "Privacy Vocabulary 2; a `close` term may stand for it, a `related` one only tells what "
        "it is about. `GET /v1/vocabulary` gives the same with IRIs, and the laws that are "
        "switched on. How it all works together: [consent.md](../explanation/consent.md).\n",
    ]
    for title, terms in (
        ("Purposes", PURPOSE_TERMS),
        ("Actions", ACTION_TERMS),
        ("Kinds of data", DATA_TERMS),
    ):
        defined = [(f"`{one.name}`", one.means, f"`{one.term}`", one.match) for one in terms]
        parts += [f"## {title}\n", _table(("word", "means", "term", "match"), defined)]
    for title, words in (
        ("Effects", EFFECTS_MEAN),
        ("Channels", CHANNELS_MEAN),
        ("Actors", ACTORS_MEAN),
        ("Kinds of zones", KINDS),
        ("Age bands", AGE_BANDS),
        ("Signals", SIGNALS),
    ):
        parts += [f"## {title}\n", _table(("word", "means"), _words(words))]
    laws = [
        (
            f"`{law.code}`",
            f"`{law.pack}`",
            "everybody" if law.ages is None else ", ".join(f"`{age}`" for age in law.ages),
            law.source,
        )
        for law in laws_told(Laws(shipped))
    ]
    parts += [
        "## Laws\n",
        "Always on are `signals` and `minors`; the others by the setting `law_packs`, which also "
        "takes paths of packs of your own. A pack only denies. It says how we read a law, and we "
        "are no lawyers.\n",
        _table(("rule", "pack", "for", "source"), laws),
    ]
    return "\n".join(parts)


def main(folder: Path) -> None:
    """Write the pages."""
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
