"""How many requests a second will come when a replica that is ordered now serves: Holt's linear trend, damped.

Source: Holt, "Forecasting seasonals and trends by exponentially weighted moving averages", 1957; damped as in Gardner
and McKenzie, "Forecasting trends in time series", 1985: a rise goes on, but less and less, so that no ramp is followed
to the sky. It sees minutes, not days: what comes every morning is a schedule's work.
"""

import math
from dataclasses import dataclass

STEP = 15.0  # seconds of which the mean is one value
LEVEL = 0.5  # weight of the newest value against what was expected of it
SLOPE = 0.2  # weight of the newest step against the steps before
DAMPING = 0.9  # of the slope, each step
FEWEST = 8  # values, two minutes, before anything is said


@dataclass(frozen=True, slots=True)
class Trend:
    level: float = 0.0  # requests/s
    slope: float = 0.0  # requests/s, each step
    values: int = 0
    since: float | None = None  # epoch seconds, of the step that goes on
    counted_to: float = 0.0  # epoch seconds
    requests: float = 0.0  # of the step that goes on

    def seen(self, requests: float, now: float) -> "Trend":
        """With what arrived since the last look; after a silence of a step it begins anew."""
        if self.since is None or now - self.counted_to > STEP:
            return Trend(since=now, counted_to=now)
        requests += self.requests
        if now - self.since < STEP:
            return Trend(self.level, self.slope, self.values, self.since, now, requests)
        rate = requests / (now - self.since)
        if not self.values:
            return Trend(rate, 0.0, 1, now, now)
        expected = self.level + DAMPING * self.slope
        level = expected + LEVEL * (rate - expected)
        slope = DAMPING * self.slope + SLOPE * (level - self.level - DAMPING * self.slope)
        return Trend(level, slope, self.values + 1, now, now)

    def ahead(self, seconds: float) -> float | None:
        """Requests/s then. None before enough was seen."""
        if self.values < FEWEST:
            return None
        fades = math.pow(DAMPING, seconds / STEP)
        return max(0.0, self.level + self.slope * DAMPING * (1 - fades) / (1 - DAMPING))


UNKNOWN = Trend()
