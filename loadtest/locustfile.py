"""Walk the made-up city against a running server: a closed loop of pings, one scenario.

At the start the operator's key registers the city's merchants and residents and makes a sender's
key. Then each user is some of the residents: it sends their next fixes, waits for the answer,
checks every decision, and goes on. What was refused or shed is sent again, as a phone does, by the
queue of engine/client; `next_fix` is not followed, for the load is the point. Walks begin a little
in the past and may run a little ahead, so that a fast server is kept busy; whoever has nothing left
to send that is due waits for it, as pings must not come from the future.

    make loadtest
    make loadtest USERS=50 SECONDS=120 ARGS="--batch-share 0.5 --batch-size 100"

Settings of its own: --residents, --shops, --seed, --interval-s, --batch-share, --batch-size.
"""

import heapq
import json
import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from time import time
from typing import Any, Final

import gevent
import msgspec
from gevent.pool import Pool
from locust import FastHttpUser, events, task
from locust.exception import StopUser

from engine.client.outbox import Outbox, encode
from engine.client.reply import Reply
from engine.client.retry import Retry
from engine.decision import STATUSES, Decision
from engine.ping import Ping
from loadtest.city import City, Resident

BEHIND_MS: Final = 90_000
"""How long ago walks begin: older than 120 s a fix brings no offer."""
AHEAD_MS: Final = 45_000
"""How far walks may run ahead: over 60 s a fix is refused."""
SETUP_CONNECTIONS: Final = 16
RETRY_MS: Final = 250
"""Ceiling of the first back-off: a load test has no days to wait."""


class Tally:
    """What was sent and what came back, over all users."""

    def __init__(self) -> None:
        self.pings = 0
        self.statuses: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.withheld: Counter[str] = Counter()
        self.offers = 0

    def add(self, decision: Decision) -> None:
        """Count one decision."""
        self.pings += 1
        self.statuses[decision.status] += 1
        self.events.update(event.kind for event in decision.events)
        self.offers += decision.offer is not None
        if decision.withheld:
            self.withheld[decision.withheld] += 1

    def lines(self) -> Iterator[str]:
        """The report, a line for each kind of count."""
        yield f"pings answered  {self.pings}"
        for name in ("statuses", "events", "withheld"):
            counts: Counter[str] = getattr(self, name)
            told = ", ".join(f"{key} {count}" for key, count in sorted(counts.items()))
            yield f"{name:<15} {told or 'none'}"
        yield f"offers made     {self.offers}"


class Scenario:
    """What all users share: the city, this run's residents, the sender's key and the tally."""

    def __init__(
        self,
        city: City,
        residents: list[Resident],
        office: "Administration",
        sender: dict[str, Any],
        *,
        start_ms: int,
    ) -> None:
        self.city, self.residents, self.start_ms = city, residents, start_ms
        self.office, self.sender = office, sender
        self.tally = Tally()
        self.users = 0


class Refused(Exception):
    """The server refused a call of the set-up."""

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what} answered {status}: {text[:400]}")
        self.status = status


class Administration:
    """The few calls with the operator's key, over the standard library."""

    def __init__(self, host: str, key: str) -> None:
        self.host, self.key = host.rstrip("/"), key

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send JSON, give back JSON; anything from 400 up is `Refused`."""
        request = urllib.request.Request(
            self.host + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answered: dict[str, Any] = json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            what = f"{method} {path.split('/')[2]}"
            raise Refused(what, error.code, error.read().decode(errors="replace")) from None
        return answered

    def put_each(self, kind: str, bodies: list[dict[str, Any]]) -> None:
        """Write things under their ids, several at once."""
        self._each(lambda body: self.call("PUT", f"/v1/{kind}/{body['id']}", body), bodies)

    def settle(self, residents: list[Resident]) -> None:
        """Make residents, with what they opted in for."""
        self._each(self._settle_one, residents)

    def _settle_one(self, resident: Resident) -> None:
        path = f"/v1/residents/{resident.id}"
        made = {"resident": resident.id, "timezone": resident.timezone}
        self.call("POST", "/v1/residents", made)
        if resident.opted_in:
            brands = {} if resident.brands is None else {"brands": list(resident.brands)}
            self.call("PUT", f"{path}/preferences/marketing", {"opted_in": True} | brands)
        # Far more than a person would want, so that offers are made all the time.
        self.call("PATCH", path, {"limits": {"per_day": 500, "per_week": 1000}})

    @staticmethod
    def _each(do: Any, things: list[Any]) -> None:
        """Run several at once, and raise the first refusal."""
        pool = Pool(SETUP_CONNECTIONS)
        jobs = [pool.spawn(do, thing) for thing in things]
        gevent.joinall(jobs, raise_error=True)


def operator_key() -> str:
    """From the environment, or as the server left it in its folder."""
    if key := os.environ.get("PASSBY_OPERATOR_KEY"):
        return key
    return (Path(os.environ.get("PASSBY_DATA", ".passby")) / "operator.key").read_text().strip()


def check(decision: Decision, ping: Ping) -> str | None:
    """Say what is wrong with the answer to a ping, or None."""
    if decision.status not in STATUSES:
        return "unknown status"
    if (decision.resident, decision.at_ms) != (ping.resident, ping.at_ms):
        return "a decision of another ping"
    if not isinstance(decision.reject, msgspec.UnsetType):
        return f"{decision.status}: {decision.reject.code}"
    return None


class Crowd:
    """The residents of one user, and which of their pings is due next."""

    def __init__(self, scenario: Scenario, residents: list[Resident], *, interval_s: float) -> None:
        self._due: list[tuple[int, int, dict[str, Any], Iterator[dict[str, Any]]]] = []
        for number, resident in enumerate(residents):
            # Not all in the same instant, as phones aren't.
            start_ms = scenario.start_ms + round(number * 1000 * interval_s / len(residents))
            walk = scenario.city.walk(resident, start_ms, seconds=86_400, interval_s=interval_s)
            heapq.heappush(self._due, (start_ms, number, next(walk), walk))

    def next_due_ms(self) -> int:
        """When the next ping was or will be taken."""
        return self._due[0][0]

    def take(self, count: int, until_ms: int) -> list[dict[str, Any]]:
        """Up to `count` pings that are due by `until_ms`, in the order of their delivery."""
        taken: list[dict[str, Any]] = []
        while len(taken) < count and self._due[0][0] <= until_ms:
            due_ms, number, ping, walk = self._due[0]
            taken.append(ping)
            following = next(walk)
            # One that comes late in its walk is due at once.
            due_ms = max(due_ms, following["at_ms"])
            heapq.heapreplace(self._due, (due_ms, number, following, walk))
        return taken


_running: list[Scenario] = []
"""The one scenario of a run; locust gives its users no other way to it."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _arguments(parser: Any) -> None:
    """Settings of the scenario, beside those of locust."""
    parser.add_argument("--residents", type=int, default=1000, help="how many walk, in all")
    parser.add_argument("--shops", type=int, default=120, help="shops, each with a fence")
    parser.add_argument("--seed", type=int, default=1, help="of the city")
    parser.add_argument("--interval-s", type=float, default=1.0, help="between a resident's fixes")
    parser.add_argument("--batch-share", type=float, default=0.02, help="requests that are batches")
    parser.add_argument("--batch-size", type=int, default=50, help="pings in a batch, at most")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _set_up(environment: Any, **_: Any) -> None:
    """Register the city, or stop the run and say why."""
    options = environment.parsed_options
    now_ms = int(time() * 1000)
    city = City.make(
        options.seed,
        residents=options.residents,
        shops=options.shops,
        timezone=City.daytime_zone(now_ms),
    )
    # Residents of this run alone: those of the run before have walked ahead in time.
    run = f"{now_ms // 1000:x}"
    residents = [replace(resident, id=f"{resident.id}-{run}") for resident in city.residents]
    try:
        office = Administration(environment.host or Phones.host, operator_key())
        sender = office.call("POST", "/v1/keys", {"role": "sender", "name": f"load test {run}"})
        for kind in ("brands", "fences", "offers"):
            office.put_each(kind, getattr(city, kind))
        office.settle(residents)
    except (OSError, Refused) as error:
        print(f"The city can't be set up at {environment.host or Phones.host}: {error}")
        raise SystemExit(2) from error
    start_ms = int(time() * 1000) - BEHIND_MS
    _running[:] = [Scenario(city, residents, office, sender, start_ms=start_ms)]
    print(f"{len(city.fences)} fences, {len(city.offers)} offers, {len(residents)} residents.")


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _tell(**_: Any) -> None:
    """Print the report, and give the sender's key back."""
    for scenario in _running:
        print("\n".join(scenario.tally.lines()))
        try:
            scenario.office.call("DELETE", f"/v1/keys/{scenario.sender['id']}")
        except (OSError, Refused) as error:
            print(f"The sender's key is still there: {error}")


class Phones(FastHttpUser):
    """Some residents' phones behind one connection, each sending when it is due."""

    host = "http://127.0.0.1:8080"

    def on_start(self) -> None:
        """Take a share of the residents."""
        if not _running:
            raise StopUser
        self.scenario = _running[0]
        self.options = self.environment.parsed_options
        number, self.scenario.users = self.scenario.users, self.scenario.users + 1
        self.rng = Random(f"{self.options.seed}:user:{number}")
        users = max(1, self.options.num_users or 1)
        mine = self.scenario.residents[number % users :: users]
        if not mine:
            raise StopUser
        self.outbox = Outbox(retry=Retry(base_ms=RETRY_MS))
        self.crowd = Crowd(self.scenario, mine, interval_s=self.options.interval_s)

    @task
    def send(self) -> None:
        """Post the next ping, or a batch of those that are next; first what has to go again."""
        now_ms = int(time() * 1000)
        if not self.outbox:
            self._fill(now_ms)
        pings = self.outbox.take(now_ms)
        if not pings:
            due_ms = self.outbox.due_ms()
            due_ms = self.crowd.next_due_ms() - AHEAD_MS if due_ms is None else due_ms
            gevent.sleep(max(0.0, (due_ms - now_ms) / 1000))
            return
        with self.client.post(
            "/v1/pings",
            data=encode(pings).decode(),
            headers={
                "Authorization": f"Bearer {self.scenario.sender['key']}",
                "Content-Type": "application/json",
            },
            name="POST /v1/pings (one)" if len(pings) == 1 else "POST /v1/pings (batch)",
            catch_response=True,
        ) as answer:
            if wrong := self._take_answer(answer, pings):
                answer.failure(wrong)

    def _fill(self, now_ms: int) -> None:
        """Queue the next ping, or those of a batch."""
        batch = self.rng.random() < self.options.batch_share
        count = self.options.batch_size if batch else 1
        for ping in self.crowd.take(count, now_ms + AHEAD_MS):
            self.outbox.add(msgspec.convert(ping, Ping), now_ms)

    def _take_answer(self, answer: Any, pings: list[Ping]) -> str | None:
        """Check and count the decisions; what is wrong, or None."""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        reply = Reply(answer.status_code or 0, headers, answer.content or b"")
        done = self.outbox.settle(reply, int(time() * 1000), chance=self.rng.random())
        if self.outbox.stopped is not None:
            raise StopUser
        if not reply.done:
            return f"status {reply.status}"
        for one in done:
            if wrong := check(one.decision, one.ping):
                return wrong
            self.scenario.tally.add(one.decision)
        return None if len(done) == len(pings) else "shed, or not the decisions of these pings"
