"""Machines whose steps take times by a formula, in the shape of measured ones."""

from dataclasses import dataclass

from headrace_server.engine.pace import SLOWER, SMALLEST
from headrace_server.engine.sequence import Step
from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Machine:
    """All in seconds."""

    weights: float  # read in any step
    sequence: float  # for each that decodes
    token: float  # for each prompt token
    read: float  # for each prompt token and each token before it
    gather: float  # for each token before the chunk, however small that is

    def seconds(self, decoding: int, filling: int = 0, context: int = 0) -> float:
        return self.weights + self.sequence * decoding + self._prefill(filling, context)

    def seconds_of(self, step: Step) -> float:
        fills = [chunk for chunk in step.chunks if chunk.token_ids]
        prefill = sum(self._prefill(chunk.tokens, chunk.start) for chunk in fills)
        return self.seconds(len(step.chunks) - len(fills)) + prefill

    def bears(self, decoding: int, context: int) -> bool:
        """Whether a step with the least that a prompt goes on by takes no longer than what is aimed at."""
        return self.seconds(decoding, SMALLEST, context) <= SLOWER * self.seconds(decoding)

    def _prefill(self, filling: int, context: int) -> float:
        return filling * (self.token + self.read * context) + self.gather * context * bool(filling)


MACHINES = st.builds(
    Machine,
    weights=st.floats(0.001, 0.1),
    sequence=st.floats(0, 0.002),
    token=st.floats(1e-6, 0.002),
    read=st.floats(0, 5e-7),
    gather=st.floats(0, 1e-5),
).filter(
    # In a transformer a token's own products take about six times its width as long as reading one token before it.
    lambda machine: machine.read <= machine.token / 200
)
