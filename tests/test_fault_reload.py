"""A reload under load: another log level from the next line on, and every ping is answered."""

import signal
from pathlib import Path

from engine.logs import LEVEL_FILE
from tests.fault_crowd import Crowd
from tests.fault_town import Town
from tests.running import Service, serving, until

STEPS = (
    (None, "", ""),
    ("debug", "the log level is now debug", "WARNING"),
    ("loud", "log_level must hold one of debug, info, warning, error", "ERROR"),
    ("ERROR\n", "the log level is now error", "WARNING"),
    ("info", "the log level is now info", "WARNING"),
    (None, "the log level is now warning", "WARNING"),
)
"""What the file holds (None: it is not there), and what the log says of it, and how."""


async def reload(service: Service, word: str | None, told: str) -> None:
    """Write the file, send the signal, and wait until the log tells of it."""
    file = service.data / LEVEL_FILE
    if word is None:
        file.unlink(missing_ok=True)
    else:
        file.write_text(word)
    before = service.stderr.count(told)
    service.signal(signal.SIGHUP)
    if told:
        await until(lambda: service.stderr.count(told) > before, within_s=10)


async def more_answered(crowd: Crowd) -> None:
    """Wait until some more pings were answered."""
    answered = crowd.ledger.answered
    await until(lambda: crowd.ledger.answered > answered + 20, within_s=10)


async def test_the_log_level_changes_without_a_lost_ping(tmp_path: Path, database_url: str) -> None:
    """Each reload under load; a word that is no level changes nothing, none means the setting."""
    town = Town.of("calm", residents=8, fences=12)
    crowd = Crowd(town)
    async with serving(
        tmp_path / "data", database_url=database_url, log_level="warning"
    ) as service:
        await town.register(service)
        async with crowd.walking(service):
            for word, told, _ in STEPS:
                await reload(service, word, told)
                await more_answered(crowd)
        lines = [line for line in service.stderr.splitlines() if " engine.logs: " in line]
        ended = service.ended

    assert not ended
    assert crowd.asking == []
    assert crowd.ledger.refused.total() == 0
    assert crowd.ledger.wrong == []
    expected = [(how, told) for _, told, how in STEPS if told]
    assert all(
        f" {how} " in line and told in line
        for line, (how, told) in zip(lines, expected, strict=True)
    )
