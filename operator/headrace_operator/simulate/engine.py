"""What one replica is made of: the time of a step, room for KV, slots, admission, and the phases of a start.

A step computes a token of each running answer and as much of waiting prompts as its token budget and the pace of those
who decode allow. It takes
    overhead
    + seconds_per_token x tokens computed + seconds_per_sequence x running answers
    + seconds_per_kv_token x tokens of context that are read, once for each sequence in the step
    + seconds_per_pair x prompt tokens computed x tokens before each of them
The default is Llama 3.1 8B in bfloat16 on one A100 of 80 GB, from what bounds it:
    weights    16.06 GB a step at 2.039 TB/s (datasheet), of which 80 % are reached: 9.8 ms; and 2 ms of host time
    compute    16.06 GFLOP a token at 312 TFLOP/s (dense bfloat16), of which 55 % are reached: 94 us
    context    32 layers x 8 KV heads x 128 x 2 x 2 bytes = 131,072 bytes a token at the same bandwidth: 80 ns
    pairs      32 layers x 4 x 4,096 FLOP at the same speed: 3.1 ns
    KV room    90 % of 80 GB, less weights and 2 GB of activations: 53.9 GB, 411,000 tokens
`python bench/replica_model.py --json FILE` fits these to our server on the machine at hand; FILE is read as it is.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from headrace_operator.errors import OperatorError


class InvalidReplica(OperatorError):
    """A replica model that cannot be read: names the file, the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Engine:
    overhead: float = 0.0118  # seconds a step, whatever is in it: weights are read once
    seconds_per_token: float = 94e-6
    seconds_per_sequence: float = 0.0
    seconds_per_kv_token: float = 80e-9
    seconds_per_pair: float = 3.1e-9
    tokens_per_step: int = 2048  # at most; answers first, the rest for prompts
    slots: int = 64  # requests that run together
    kv_tokens: int = 411_000  # a request holds room for its whole prompt and answer while it runs
    max_waiting: int = 1024  # requests; more are refused and come back
    max_wait: float = 60.0  # seconds; who would let the queue grow beyond what begins in half of it is refused
    # A step with prompts takes at most so many times one without, while somebody decodes: the server's engine/pace.py.
    slower: float = 2.25
    hand_over: float = 0.0  # seconds from an arrival until the engine sees it
    # Shares of a start: scheduled, image pulled, weights on the device, warm.
    phases: tuple[float, ...] = (0.02, 0.25, 0.53, 0.20)
    phase_spread: float = 0.15  # of each phase: standard deviation of the logarithm of its length


USUAL = Engine()
# What a step takes, in seconds: of a step, and of each thing in it.
COSTS = ("overhead", "seconds_per_token", "seconds_per_sequence", "seconds_per_kv_token", "seconds_per_pair")


def read(path: Path) -> Engine:
    """JSON with any of the fields of Engine, or what bench/replica_model.py wrote. Raises InvalidReplica."""
    try:
        given = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidReplica(f"{path}: cannot be read: {error}") from None
    known = {field.name for field in fields(Engine)}
    given = _fitted(given)
    if not isinstance(given, dict):
        raise InvalidReplica(f"{path}: must be an object with any of {', '.join(sorted(known))}")
    if unknown := given.keys() - known:
        raise InvalidReplica(f"{path}: {min(unknown)} is not known; there are {', '.join(sorted(known))}")
    for name, value in given.items():
        _check(path, name, value)
    phases = {"phases": tuple(given["phases"])} if "phases" in given else {}
    return replace(Engine(), **{**given, **phases})


def _fitted(given: Any) -> Any:
    """The part of a benchmark's result that is a replica."""
    work = given.get("work") if isinstance(given, dict) else None
    return work.get("engine", given) if isinstance(work, dict) else given


WHOLE = {"tokens_per_step", "slots", "kv_tokens", "max_waiting"}
LEAST = {"slower": 1, "max_wait": 1}  # of those that are no whole numbers; of the others 0


def _check(path: Path, name: str, value: Any) -> None:
    if name == "phases":
        if not isinstance(value, list) or not value or not all(isinstance(v, int | float) and v >= 0 for v in value):
            raise InvalidReplica(f"{path}: phases must be a list of shares such as [0.1, 0.9], not {value!r}")
        return
    kind = (int,) if name in WHOLE else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    least = 1 if name in WHOLE else LEAST.get(name, 0)
    if not is_number or value < least:
        wanted = "a whole number of at least" if name in WHOLE else "a number of at least"
        raise InvalidReplica(f"{path}: {name} must be {wanted} {least}, not {value!r}")
