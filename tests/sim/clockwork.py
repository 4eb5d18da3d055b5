"""Virtual time: one agenda for the whole world, and an event loop for each process in it.

A process is a loop of its own, as a real one is: what it has to do comes in the order in which it
was asked for, and only which process does its next step, and when, is up to chance. So a process
can stand still between any two steps, or never go on, while the others do. No wall time passes.
"""

import asyncio
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context as Variables
from heapq import heappop, heappush
from typing import Any, Final

Call = Callable[..., object]
TEARDOWN_ROUNDS: Final = 20


class Agenda:
    """What happens next in the world, and what time it is there.

    Attributes:
        now_us: microseconds since the world began; never goes back.
        moved: the process that took a step by what happened last, if any did.
    """

    def __init__(self) -> None:
        self.now_us = 0
        self.moved: ProcessLoop | None = None
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._asked = 0

    def at(self, when_us: int, call: Callable[[], object]) -> None:
        """Have something called at a time; what is due together comes in the order of asking."""
        self._asked += 1
        heappush(self._due, (max(when_us, self.now_us), self._asked, call))

    def after(self, pause_us: int, call: Callable[[], object]) -> None:
        """Have something called after a while."""
        self.at(self.now_us + pause_us, call)

    def step(self, until_us: int) -> bool:
        """Let the next thing happen; False: nothing does before that time, which is now."""
        if not self._due or self._due[0][0] > until_us:
            self.now_us = until_us
            return False
        self.moved = None
        self.now_us, _, call = heappop(self._due)
        call()
        return True


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one process.

    Args:
        agenda: of the world.
        rng: this process' own chance.
        rate: how fast its clock goes; 1.0 is right.

    Attributes:
        faults: what was raised and nobody took.
    """

    def __init__(self, agenda: Agenda, rng: random.Random, *, rate: float = 1.0) -> None:
        self._agenda = agenda
        self._rng = rng
        self._rate = rate
        self._ready: deque[events.Handle] = deque()
        self._is_due = False
        self._still_until_us = 0
        self._started: set[asyncio.Task[Any]] = set()
        self.dead = False
        self.faults: list[str] = []

    def freeze(self, for_us: int) -> None:
        """Take no step for a while; what comes meanwhile waits."""
        self._still_until_us = self._agenda.now_us + for_us

    def thaw(self) -> None:
        """Go on."""
        self._still_until_us = self._agenda.now_us
        self._is_due = False
        self._wake()

    @property
    def frozen(self) -> bool:
        """Whether no step is taken now."""
        return self._agenda.now_us < self._still_until_us

    def kill(self) -> None:
        """Take no step any more."""
        self.dead = True

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Have the process do something beside what it does."""
        task = self.create_task(work)
        self._started.add(task)
        task.add_done_callback(self._started.discard)

    def clear_away(self) -> None:
        """After the end of the world: end whatever never ended."""
        self.dead = True
        for _ in range(TEARDOWN_ROUNDS):
            tasks = asyncio.all_tasks(self)
            for task in tasks:
                task.cancel()
            while self._ready:
                self._run(self._ready.popleft())
            if not tasks:
                return
        raise AssertionError("what was cancelled does not end")

    def _wake(self) -> None:
        """See to it that the next step is taken."""
        if self._is_due or self.dead or not self._ready:
            return
        self._is_due = True
        chance = self._rng.random()
        lag_us = int(50 * chance) if chance < 0.98 else int(20_000 * self._rng.random())
        self._agenda.at(max(self._agenda.now_us + lag_us, self._still_until_us), self._step)

    def _step(self) -> None:
        self._is_due = False
        if self.dead:
            return
        if self._ready and not self.frozen:
            self._run(self._ready.popleft())
        self._wake()

    def _run(self, handle: events.Handle) -> None:
        if handle.cancelled():
            return
        self._agenda.moved = self
        events._set_running_loop(self)
        try:
            handle._run()
        finally:
            events._set_running_loop(None)

    # What asyncio asks of a loop, as far as the service uses it.

    def time(self) -> float:
        """The process' own clock, seconds."""
        return self._agenda.now_us * self._rate / 1e6

    def call_soon(  # type: ignore[override]
        self, callback: Call, *args: Any, context: Variables | None = None
    ) -> events.Handle:
        """Have a step taken, after those that were asked for before."""
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        self._wake()
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Variables | None = None,
    ) -> events.TimerHandle:
        """Have a step taken at a time of the process' own clock."""
        timer = events.TimerHandle(when, callback, args, self, context)

        def ring() -> None:
            if not timer.cancelled():
                self._ready.append(timer)
                self._wake()

        self._agenda.at(int(when * 1e6 / self._rate) + 1, ring)
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Variables | None = None,
    ) -> events.TimerHandle:
        """Have a step taken after a while."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose waiters go on by this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Variables | None = None,
    ) -> asyncio.Task[Any]:
        """A task whose steps are this loop's."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """A thread's work: done beside the steps, after a moment."""
        done = self.create_future()
        self._agenda.after(1_000, lambda: give(done, func(*args)))
        return done

    def get_debug(self) -> bool:
        """No."""
        return False

    def is_running(self) -> bool:
        """Yes, until killed."""
        return not self.dead

    def is_closed(self) -> bool:
        """Never."""
        return False

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """It is seen when it is due."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody took."""
        if not self.dead:
            self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


def give(answer: asyncio.Future[Any], found: object) -> None:
    """An answer arrives, if anybody still waits for it."""
    if not answer.done():
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
