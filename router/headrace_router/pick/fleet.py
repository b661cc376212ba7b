"""The pickers of all models that one router serves; most routers serve one."""

from collections.abc import Iterator, Mapping
from itertools import chain

from headrace_router.pick.picker import Picker
from headrace_router.values import Asked, Endpoint, Pick, Refusal


class Fleet:
    def __init__(self, pickers: Mapping[str, Picker]) -> None:
        """`pickers`: by model."""
        self.pickers = pickers

    def ask(self, request: str, asked: Asked, model: str, now: float) -> Pick | Refusal | None:
        """None: the request is held, and comes out of `released`."""
        return self.pickers[model].ask(request, asked, now)

    def would_hold(self, model: str, now: float) -> bool:
        """Whether a request that may wait would."""
        return self.pickers[model].would_hold(now)

    def released(self, now: float) -> Iterator[tuple[str, Pick | Refusal]]:
        """Held requests that are answered now."""
        return chain.from_iterable(picker.released(now) for picker in self.pickers.values())

    def gave_up(self, request: str) -> None:
        """The client of a held request is gone."""
        for picker in self.pickers.values():
            picker.gave_up(request)

    def finished(self, request: str, reached: bool, now: float) -> bool:
        """Returns whether the replica that was picked is left out from now on."""
        pickers = list(self.pickers.values())
        # One that is over before it was asked where to go is known to nobody yet: none of them may count it later.
        knowing = [picker for picker in pickers if request in picker.busy.under_way] or pickers
        left_out = [picker.finished(request, reached, now) for picker in knowing]
        return any(left_out)

    def drain(self) -> Iterator[tuple[str, Refusal]]:
        return chain.from_iterable(picker.drain() for picker in self.pickers.values())

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(chain.from_iterable(picker.endpoints for picker in self.pickers.values()))

    @property
    def held(self) -> int:
        return sum(picker.held for picker in self.pickers.values())

    @property
    def in_flight(self) -> int:
        """Requests at a replica."""
        return sum(len(picker.busy.under_way) for picker in self.pickers.values())

    def oldest_held_seconds(self, now: float) -> float:
        return max(picker.oldest_held_seconds(now) for picker in self.pickers.values())
