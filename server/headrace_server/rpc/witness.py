"""Follows one request through a door, and tells what became of it when it is over."""

from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from headrace_server.request import Finish, Request
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.telemetry.answered import Answered, Hear, Operation

LEFT = "cancelled"  # as OpenTelemetry calls what gRPC calls so: the caller hung up


class Moments(Protocol):
    """Seconds on the engine's clock; None = not come yet."""

    @property
    def began(self) -> float | None: ...

    @property
    def first(self) -> float | None: ...

    @property
    def last(self) -> float | None: ...


class Progress(Protocol):
    """What its caller has received."""

    @property
    def generated(self) -> int: ...

    @property
    def finish(self) -> Finish | None: ...

    @property
    def detokenising(self) -> float | None: ...


@dataclass(slots=True)
class Followed:
    arrived: float
    request: Request | None = None  # None: refused before it was one
    moments: Moments | None = None  # None: refused by the engine
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    hears: Sequence[Hear]
    clock: Callable[[], float]  # the engine's
    detokenising: bool = False  # how long that takes is measured, too: two readings of a clock for each token

    @contextmanager
    def follow(self, ask: Ask) -> Iterator[Followed]:
        followed, error = Followed(self.clock()), None
        try:
            yield followed
        except (CancelledError, GeneratorExit):
            error = LEFT
            raise
        except BaseException as broken:
            error = type(broken).__name__
            raise
        finally:
            answered = _answered(ask, followed, error, self.clock())
            for hear in self.hears:
                hear(answered)


def _answered(ask: Ask, followed: Followed, error: str | None, now: float) -> Answered:
    request, moments, progress = followed.request, followed.moments, followed.progress
    finish = progress.finish if progress else None
    return Answered(
        operation=Operation.CHAT if isinstance(ask.prompt, Chat) else Operation.TEXT_COMPLETION,
        came_with=ask.came_with,
        arrived=followed.arrived,
        ended=now,
        request_id=request.id if request else "",
        admitted=moments is not None,
        began=moments.began if moments else None,
        first_token=moments.first if moments else None,
        last_token=moments.last if moments else None,
        detokenising=progress.detokenising if progress else None,
        prompt_tokens=len(request.prompt) if request else None,
        generated_tokens=progress.generated if progress else 0,
        max_new_tokens=request.max_new_tokens if request else None,
        sampling=ask.sampling,
        finish=finish,
        error=LEFT if error is None and finish is None else error,
    )
