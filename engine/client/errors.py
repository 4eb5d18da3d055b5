"""What a client raises."""

from engine.client.reply import Problem


class Stopped(Exception):
    """The service refuses the key, or there is none at the address; the text says which."""


class Unreachable(ConnectionError):
    """Nobody answers now: no network, somebody else's page, or a service that is not well.

    Nothing has changed by it; ask again later.
    """


class NotSaid(Exception):
    """What the resident said was refused.

    Attributes:
        problem: `stale_version` where the settings were changed elsewhere: `difference` is what
            was said since. Show the latest ones (`preferences`) and ask again.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code}: {problem.detail}")
        self.problem = problem
