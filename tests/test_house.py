"""The rules of the house, held over every file: who may import whom, what is pure, how long.

Each rule is a function from a file's text to the sentences that it breaks, so that each is also
fed something bad below: a rule that cannot fail holds nothing.
"""

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ONE_AT_A_TIME

ROOT: Final = Path(__file__).resolve().parent.parent
OURS: Final = ("engine", "geofences", "loadtest", "bench", "tests")

IMPURE_MODULES: Final = frozenset(
    {"asyncio", "aiohttp", "asyncpg", "logging", "random", "socket", "threading", "time"}
)
CLOCK_CALLS: Final = frozenset({"now", "utcnow", "today"})

VALUES: Final = (
    "geofences",
    "engine.ping",
    "engine.decision",
    "engine.changes",
    "engine.residents",
    "engine.localtime",
)
"""What any pure room may build on, besides itself."""

WAY: Final = ("engine.pipeline", "engine.presence", "engine.second_gate", "engine.advice")
"""The whole way of a ping: it puts the pure rooms together, and only the rim knows it."""

CLIENT: Final = "engine.client"
"""What app makers copy: it knows values only, and of ours only who plays phones knows it."""

COMMANDS: Final = (
    "engine.replay",
    "engine.importing",
    "engine.demo",
    "engine.doctor",
    "engine.commands",
)
"""What a subcommand does, where that is more than calling one of the others."""

DOORS: Final = ("engine.web", "engine.app", *COMMANDS, "engine.cli")
"""Where the outside comes in. Nothing behind them knows them; of these, each may know the ones
before it: app puts web together, cli starts the others."""

RIM: Final = (
    "engine.store",
    "engine.delivery",
    "engine.config",
    "engine.logs",
    "engine.client.client",
    "engine.client.follow",
    "engine.client.kept",
    *DOORS,
)
"""What may touch the world. All else of geofences and engine is pure, what is yet to come too."""

BANNED_NAMES: Final = frozenset(
    {"utils", "util", "helpers", "helper", "manager", "service", "core"}
)
FILE_LINES_MAX: Final = 450
TEST_LINES_MAX: Final = 800
"""Tests are many short functions side by side, and are not read from top to bottom."""
POLL_S_MAX: Final = 0.1
BODY_LINES_MAX: Final = 60
LONG_BODIES: Final[frozenset[str]] = frozenset()
"""`module.function` that are longer, each with its reason in a comment beside it."""

_REGISTRIES: Final = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|npmjs\.(?:org|com)|yarnpkg\.com|crates\.io|"
    r"proxy\.golang|rubygems\.org|deb\.debian\.org|archive\.ubuntu|maven\.org|docker\.io|"
    r"quay\.io|ghcr\.io|raw\.githubusercontent|/releases[/]download|--(?:extra-)?index[-]url|"
    r"--find[-]links"
)
_UNFINISHED: Final = re.compile(r"\b(?:TO" + "DO|FIX" + r"ME|XX" + r"X)\b")


def tracked() -> list[Path]:
    """Every file that git knows or would add, if it is there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


FILES: Final = tracked()
PYTHON: Final = [path for path in FILES if path.suffix == ".py"]


def module_name(path: Path) -> str:
    """`engine/store/port.py` -> `engine.store.port`; a package is its folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, room: str) -> bool:
    """Whether a module is the room or lies in it."""
    return module == room or module.startswith(room + ".")


def within_any(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module lies in one of the rooms."""
    return any(within(module, room) for room in rooms)


def is_pure(module: str) -> bool:
    """Whether a module has to be synchronous, without clock, chance and world."""
    return within_any(module, ("geofences", "engine")) and not within_any(module, RIM)


@functools.cache
def parsed(text: str) -> ast.Module:
    """A file's tree, which every rule looks at."""
    return ast.parse(text)


def imports(module: str, tree: ast.AST, *, is_package: bool = False) -> Iterator[str]:
    """Full names of what is imported, at any depth; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(module: str, tree: ast.AST) -> set[str]:
    """What is imported of our own packages."""
    return {name for name in imports(module, tree) if name.split(".")[0] in OURS}


Rule = Callable[[str, str], list[str]]
"""From a module's name and its text to what is wrong with it."""


def impure_imports(module: str, text: str) -> list[str]:
    """A pure room imports no loop, no clock, no chance, no socket and no log."""
    if not is_pure(module):
        return []
    names = {name.split(".")[0] for name in imports(module, parsed(text))}
    return [f"{module} is pure and imports {name}" for name in sorted(names & IMPURE_MODULES)]


def clock_reads(module: str, text: str) -> list[str]:
    """A pure room never asks what time it is, not even by way of a type that it may import."""
    if not is_pure(module):
        return []
    return [
        f"{module}:{node.lineno} reads the clock by {ast.unparse(node)}"
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.Attribute)
        and node.attr in CLOCK_CALLS
        and re.search(r"date", ast.unparse(node.value), re.IGNORECASE)
    ]


def coroutines(module: str, text: str) -> list[str]:
    """A pure room is synchronous: nothing in it is awaited."""
    if not is_pure(module):
        return []
    kinds = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    return [
        f"{module}:{node.lineno} is async"
        for node in ast.walk(parsed(text))
        if isinstance(node, kinds)
    ]


def forbidden_neighbours(module: str, text: str) -> list[str]:
    """Who may import whom.

    geofences nothing of ours; a pure room only itself and values, and offers consent, which they
    have to ask; pipeline any pure room, and nobody the pipeline but the rim. Bench and tests
    stand outside and import anything; what is installed never imports them, and only the doors
    walk the made-up city.
    """
    if module.split(".", maxsplit=1)[0] in {"tests", "bench"}:
        return []
    wrong = []
    for name in sorted(ours(module, parsed(text))):
        same_room = within(module, room_of(name))
        if not same_room and name not in {"engine", "geofences"} and not _may_import(module, name):
            wrong.append(f"{module} may not import {name}")
    return wrong


def room_of(name: str) -> str:
    """`engine.consent.record.Record` -> `engine.consent`; `geofences.fence` -> `geofences`."""
    parts = name.split(".")
    return parts[0] if parts[0] != "engine" else ".".join(parts[:2])


def _may_import(module: str, name: str) -> bool:
    """Whether a module of ours may import something of another room of ours."""
    if within(module, "geofences"):
        return False
    if within(name, CLIENT):
        return within_any(module, ("engine.demo", "loadtest"))
    if within(module, CLIENT):
        return within_any(name, VALUES)
    if within_any(name, DOORS):
        order = {door: place for place, door in enumerate(DOORS)}
        return order.get(room_of(module), -1) > order[room_of(name)]
    if within_any(name, WAY):
        return within_any(module, (*WAY, *RIM))
    if within_any(module, WAY):
        return is_pure(name)
    if within(module, "engine.offers") and within(name, "engine.consent"):
        return True
    if is_pure(module):
        return within_any(name, VALUES)
    if within(module, "loadtest"):
        return within_any(name, VALUES)
    if within(name, "loadtest"):
        return within_any(module, DOORS[1:])
    return not within_any(name, ("tests", "bench"))


def banned_names(module: str, text: str) -> list[str]:
    """A file is named after the thing it holds."""
    del text
    return [f"{module} names nothing" for part in module.split(".") if part in BANNED_NAMES]


def unfinished(module: str, text: str) -> list[str]:
    """What is not built is not there, and nothing says that it should be."""
    return [f"{module}: {mark}" for mark in _UNFINISHED.findall(text)]


def long_files(module: str, text: str) -> list[str]:
    """A file is read in one sitting."""
    lines = text.count("\n")
    most = TEST_LINES_MAX if within(module, "tests") else FILE_LINES_MAX
    return [f"{module} has {lines} lines"] if lines > most else []


def long_bodies(module: str, text: str) -> list[str]:
    """A function's body, its docstring left out, fits a screen."""
    wrong = []
    for node in ast.walk(parsed(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0
        name = f"{module}.{node.name}"
        if lines > BODY_LINES_MAX and name not in LONG_BODIES:
            wrong.append(f"{name} has {lines} lines")
    return wrong


def mocks(module: str, text: str) -> list[str]:
    """The real thing, or a twin under the same contract test; never a mock."""
    names = imports(module, parsed(text))
    wrong = [name for name in names if name.split(".")[-1] in {"mock", "MagicMock", "pytest_mock"}]
    return [f"{module} imports {name}" for name in wrong]


def sleeps(module: str, text: str) -> list[str]:
    """A test waits for what it waits for, not for a while.

    A short pause in a loop that ends when something has come true is such a wait, where nothing
    tells of it by itself: another process, say.
    """
    if not within(module, "tests"):
        return []
    tree = parsed(text)
    polls = {
        inner
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While) and not isinstance(loop.test, ast.Constant)
        for inner in ast.walk(loop)
    }
    return [
        f"{module}:{node.lineno} sleeps"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "sleep"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, int | float)
        and node.args[0].value > (POLL_S_MAX if node in polls else 0)
    ]


def addresses(name: str, text: str) -> list[str]:
    """Where packages come from is the concern of whoever installs them."""
    return [f"{name} names {found}" for found in sorted(set(_REGISTRIES.findall(text)))]


PYTHON_RULES: Final[tuple[Rule, ...]] = (
    impure_imports,
    clock_reads,
    coroutines,
    forbidden_neighbours,
    banned_names,
    unfinished,
    long_files,
    long_bodies,
    mocks,
    sleeps,
)


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    """No Python file of ours breaks it."""
    wrong = [
        sentence
        for path in PYTHON
        if path.relative_to(ROOT).parts[0] in OURS
        for sentence in rule(module_name(path), path.read_text(encoding="utf-8"))
    ]

    assert wrong == []


def test_files_whose_tests_run_one_at_a_time_are_there() -> None:
    """A file that was renamed must not be forgotten in the list."""
    assert [file for file in ONE_AT_A_TIME if not (ROOT / file).is_file()] == []


def test_no_tracked_file_names_a_registry() -> None:
    """Neither code nor docs nor the lock say from where anything is downloaded."""
    wrong = []
    for path in FILES:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data, not words
        wrong += addresses(str(path.relative_to(ROOT)), text)

    assert wrong == []


def test_the_lock_covers_what_pyproject_asks_for() -> None:
    """Every requirement, of running and of development, is pinned, and each pin has hashes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lock = (ROOT / "requirements.lock").read_text()
    pins = {
        name.lower().replace("_", "-"): hashes
        for name, hashes in re.findall(
            r"^([\w.-]+)==[^\\\n]+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.M
        )
    }
    names = {re.split(r"[<>=~!;\[ ]", line)[0].lower().replace("_", "-") for line in asked}

    assert names - pins.keys() == set()
    assert len(pins) == len(re.findall(r"^[\w.-]+==", lock, re.M))


def broken_links(name: str, text: str) -> list[str]:
    """A page of ours links to files that are there."""
    folder = (ROOT / name).parent
    links = re.findall(r"\]\(([^)#\s]+)", text)
    return [
        f"{name} links to {link}"
        for link in links
        if not re.match(r"[a-z]+:", link) and not (folder / link).exists()
    ]


def unlike_a_decision(name: str, text: str) -> list[str]:
    """A decision is short, and says the same five things in the same order."""
    fields = re.findall(r"^\*\*([A-Z][a-z ]+)\.\*\*", text, re.M)
    wrong = [] if text.startswith(f"# {Path(name).name[:4]}: ") else [f"{name}: another number"]
    if fields != ["Problem", "Decision", "Measured", "Alternatives", "Revisit when"]:
        wrong.append(f"{name} has the fields {fields}")
    return wrong + ([f"{name} is too long"] if text.count("\n") > 40 else [])


def test_pages_link_to_what_is_there() -> None:
    """No page leads nowhere."""
    pages = [path for path in FILES if path.suffix == ".md"]
    wrong = [
        sentence
        for path in pages
        for sentence in broken_links(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]

    assert wrong == []


def test_decisions_have_their_form_and_are_listed() -> None:
    """Each is in the list, numbered without a gap."""
    folder = ROOT / "docs" / "decisions"
    decisions = sorted(folder.glob("[0-9]*.md"))
    listed = (folder / "README.md").read_text()

    assert [path.name[:4] for path in decisions] == [f"{n + 1:04}" for n in range(len(decisions))]
    for path in decisions:
        assert f"({path.name})" in listed
        assert unlike_a_decision(path.name, path.read_text()) == []


BAD: Final = [
    (broken_links, "docs/index.md", "[here](nowhere.md)"),
    (unlike_a_decision, "0001-a.md", "# 0002: A\n\n**Problem.** None.\n"),
    (unlike_a_decision, "0001-a.md", "# 0001: A\n" + "\n" * 40),
    (impure_imports, "engine.consent.rule", "def f():\n    import time\n"),
    (impure_imports, "engine.something_new", "import socket\n"),
    (impure_imports, "geofences.index", "from random import Random\n"),
    (impure_imports, "engine.offers.book", "import asyncio.events\n"),
    (clock_reads, "engine.offers.schedule", "import datetime\nx = datetime.datetime.now()\n"),
    (clock_reads, "engine.pipeline", "from datetime import date\nx = date.today()\n"),
    (coroutines, "engine.pipeline", "async def decide():\n    pass\n"),
    (forbidden_neighbours, "geofences.index", "from engine.ping import Ping\n"),
    (forbidden_neighbours, "engine.consent.rule", "from engine.offers.book import OfferBook\n"),
    (forbidden_neighbours, "engine.ingest.geojson", "from engine.consent.index import Entry\n"),
    (forbidden_neighbours, "engine.consent.rule", "from engine.store import port\n"),
    (forbidden_neighbours, "engine.consent.rule", "from ..store import port\n"),
    (forbidden_neighbours, "engine.offers.book", "from engine.pipeline import Engine\n"),
    (forbidden_neighbours, "engine.store.journal", "import engine.web.routes\n"),
    (forbidden_neighbours, "engine.store.journal", "from engine import app\n"),
    (forbidden_neighbours, "engine.web.routes", "from engine.cli import main\n"),
    (forbidden_neighbours, "engine.web.routes", "from tests.strategies import rings\n"),
    (forbidden_neighbours, "engine.web.routes", "from engine.client.outbox import Outbox\n"),
    (forbidden_neighbours, "engine.client.client", "from engine.store import port\n"),
    (impure_imports, "engine.client.outbox", "import random\n"),
    (banned_names, "engine.utils", ""),
    (banned_names, "engine.core.ping", ""),
    (unfinished, "engine.ping", "# TO" + "DO: later\n"),
    (long_files, "engine.ping", "x = 1\n" * 451),
    (long_files, "tests.test_ping", "x = 1\n" * 801),
    (long_bodies, "engine.ping", "def f():\n" + "    x = 1\n" * 61),
    (mocks, "tests.test_ping", "from unittest import mock\n"),
    (mocks, "tests.test_ping", "from unittest.mock import MagicMock\n"),
    (sleeps, "tests.test_ping", "import time\ntime.sleep(0.1)\n"),
    (sleeps, "tests.test_ping", "async def f():\n    await asyncio.sleep(1)\n"),
    (sleeps, "tests.test_ping", "while True:\n    time.sleep(0.1)\n"),
    (sleeps, "tests.test_ping", "while not done():\n    time.sleep(2)\n"),
    (addresses, "requirements.lock", "--index" + "-url somewhere\n"),
    (addresses, "docs/index.md", "see https://py" + "pi.org/project/passby\n"),
]

GOOD: Final = [
    (impure_imports, "engine.store.journal", "import asyncio\n"),
    (clock_reads, "engine.offers.schedule", "now = clock.now\nfrom datetime import datetime\n"),
    (forbidden_neighbours, "engine.consent.rule", "from engine.consent.lanes import LANES\n"),
    (forbidden_neighbours, "engine.offers.book", "from geofences.fence import Fence\n"),
    (forbidden_neighbours, "engine.pipeline", "from engine.offers.book import OfferBook\n"),
    (forbidden_neighbours, "engine.app", "from engine.pipeline import Engine\n"),
    (forbidden_neighbours, "engine.app", "from engine.web.routes import routes\n"),
    (forbidden_neighbours, "engine.client.client", "from engine.decision import Decision\n"),
    (forbidden_neighbours, "loadtest.locustfile", "from engine.client.outbox import Outbox\n"),
    (forbidden_neighbours, "engine.commands.serve", "from loadtest.city import City\n"),
    (sleeps, "tests.test_ping", "async def f():\n    await asyncio.sleep(0)\n"),
    (sleeps, "tests.test_ping", "while not done():\n    time.sleep(0.1)\n"),
    (long_bodies, "engine.ping", 'def f():\n    """' + "\n" * 80 + '"""\n    return 1\n'),
]


@pytest.mark.parametrize(("rule", "module", "text"), BAD)
def test_each_rule_can_fail(rule: Rule, module: str, text: str) -> None:
    """Something bad is found, once."""
    assert len(rule(module, text)) >= 1


@pytest.mark.parametrize(("rule", "module", "text"), GOOD)
def test_no_rule_cries_wolf(rule: Rule, module: str, text: str) -> None:
    """What is allowed is let through."""
    assert rule(module, text) == []


def test_every_rule_is_proven() -> None:
    """A rule that is added without a bad example is itself bad."""
    assert {rule for rule, _, _ in BAD} == {
        *PYTHON_RULES,
        addresses,
        broken_links,
        unlike_a_decision,
    }
