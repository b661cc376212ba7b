"""Stand-ins for what an embedder computes and tokenises with, for tests of what surrounds them."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from headrace_server.embedding import EmbedderFacts, Pooling
from headrace_server.engine.embed import EmbedModel
from headrace_server.engine.embed_lanes import Computed

FACTS = EmbedderFacts(dimensions=4, max_tokens=16, pooling=Pooling.MEAN, normalises=False)
VOCABULARY = 100


@dataclass
class ScriptedLane:
    """A text's vector: its length, its first token, its last one, 1. While `gate` is cleared no batch ends."""

    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[tuple[int, ...]]] = field(default_factory=list)
    fault: Exception | None = None
    padded: int = 0  # tokens of each batch

    def __post_init__(self) -> None:
        self.gate.set()

    def launch(self, texts: Sequence[Sequence[int]]) -> "ScriptedOutcome":
        self.batches.append([tuple(text) for text in texts])
        return ScriptedOutcome(self, self.batches[-1])


@dataclass(frozen=True, slots=True)
class ScriptedOutcome:
    lane: ScriptedLane
    texts: list[tuple[int, ...]]

    def wait(self) -> Computed:
        if not self.lane.gate.wait(timeout=120):
            raise TimeoutError("the test never opened the gate")
        if self.lane.fault is not None:
            raise self.lane.fault
        rows = [[len(text), text[0], text[-1], 1] for text in self.texts]
        return Computed(np.array(rows, dtype=np.float32), busy=0.25, gap=0.0, padded=self.lane.padded)


class Letters:
    """A token for each letter: its place in the alphabet. `encoded` keeps the texts and who asked, by thread."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def encode(self, texts: Sequence[str], *, truncate: bool) -> list[list[int]]:
        self.threads.add(threading.current_thread().name)
        ids = [[ord(letter) - ord("a") for letter in text] for text in texts]
        return [one[: FACTS.max_tokens] for one in ids] if truncate else ids


def scripted(*lanes: ScriptedLane) -> EmbedModel:
    return EmbedModel(lanes, Letters(), FACTS, VOCABULARY)
