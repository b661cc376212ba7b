"""How often each object is looked at: from a queue to the next pod it is at least the time to the next look."""

from headrace_operator.work_queue import Key

ALERT = 0.5  # seconds between two looks at an object that is alert; a rate over less is noise
CALM = 1.0  # seconds between two looks at any other, while they are few
CALM_LOOKS = 50.0  # looks/s that may be spent on that: 250 of them were seen to take 0.7 of a core
MOST_LOOKS = 280.0  # looks/s; alert objects share what the others leave of them


class Pace:
    """`longest`: seconds between two looks that no object waits longer than."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.alert: set[Key] = set()  # whose next look is worth having sooner

    def tell(self, key: Key, *, is_alert: bool) -> None:
        (self.alert.add if is_alert else self.alert.discard)(key)

    def calm_seconds(self, known: int) -> float:
        """Between two looks at an object that is not alert, one of `known` altogether."""
        return min(self._longest, max(CALM, known / CALM_LOOKS))

    def alert_seconds(self, known: int) -> float:
        """Between two looks at one that is."""
        others = known - len(self.alert)
        spare = MOST_LOOKS - others / self.calm_seconds(known)
        needed = len(self.alert) / spare if spare > 0 else self._longest
        return min(self._longest, max(ALERT, needed))
