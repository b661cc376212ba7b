"""What the model's arithmetic says that a step costs: the numerators of MFU and MBU.

Counted is what any implementation has to do: two operations a weight and token, four a pair of positions and channel
in attention; each weight read once a step, the KV of a context once a step and request, and written once a token.
Rows computed for nobody, activations and rereading do not count: they are what MFU and MBU are there to show.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One request's part of a step."""

    start: int  # position of its first token
    tokens: int


@dataclass(frozen=True, slots=True)
class ModelWork:
    flops_per_token: float  # of the layers' matrices
    flops_per_sample: float  # of the output matrix, for a token that is chosen
    flops_per_pair: float  # attention of one position to one position, all layers and heads
    weight_bytes: float  # that one step reads, whatever is in it
    kv_bytes_per_token: float
    both_ways: bool = False  # each position attends to those after it, too

    def flops(self, parts: list[Part], samples: int) -> float:
        tokens = sum(part.tokens for part in parts)
        pairs = sum(self._pairs(part) for part in parts)
        return self.flops_per_token * tokens + self.flops_per_sample * samples + self.flops_per_pair * pairs

    def _pairs(self, part: Part) -> int:
        own = part.tokens**2 if self.both_ways else part.tokens * (part.tokens + 1) // 2
        return part.tokens * part.start + own

    def memory(self, parts: list[Part]) -> float:
        """Bytes read and written."""
        read = sum(part.start + part.tokens for part in parts)
        written = sum(part.tokens for part in parts)
        return self.weight_bytes + self.kv_bytes_per_token * (read + written)
