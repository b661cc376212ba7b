"""As many as somebody wrote down: what most services do."""

from dataclasses import dataclass

from headrace_operator.simulate.policy import Look


@dataclass(frozen=True, slots=True)
class Static:
    number: int
    interval: float = 15.0  # seconds

    def replicas(self, look: Look) -> int:
        del look
        return self.number
