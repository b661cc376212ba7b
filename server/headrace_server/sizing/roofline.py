"""How long a step takes: the longer of reading what it must read and of multiplying what it must multiply.

Source: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52 (4), 2009. What must be read and multiplied is `telemetry.work`'s.
"""

from dataclasses import dataclass

from headrace_server.telemetry.work import ModelWork, Part


@dataclass(frozen=True, slots=True)
class Speeds:
    """What a device attains, not what its data sheet says."""

    read: float  # bytes a second
    multiply: float  # operations a second
    overhead: float = 0.0  # seconds of a step in which nothing is read or multiplied
    token_overhead: float = 0.0  # seconds more for each token that is sent: on a CPU, those who compute send, too


def decode_seconds(work: ModelWork, speeds: Speeds, sequences: float, context: float) -> float:
    """Of a step in which so many sequences get a token each. `context`: tokens that each attends to, in the mean."""
    tokens = sequences * context
    operations = sequences * (work.flops_per_token + work.flops_per_sample) + tokens * work.flops_per_pair
    sending = sequences * speeds.token_overhead
    return sending + _seconds(speeds, work.weight_bytes + tokens * work.kv_bytes_per_token, operations)


def prompt_seconds(work: ModelWork, speeds: Speeds, tokens: int) -> float:
    """Of a prompt that is computed alone, in one step."""
    part = [Part(0, tokens)]
    return _seconds(speeds, work.memory(part), work.flops(part, samples=1))


def _seconds(speeds: Speeds, read: float, operations: float) -> float:
    return speeds.overhead + max(read / speeds.read, operations / speeds.multiply)
