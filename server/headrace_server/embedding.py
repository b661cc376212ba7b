"""The values that cross from the doors (rpc) to an embedder and back: what generation has in request.py."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_server.came_with import ALONE, CameWith
from headrace_server.request import Priority


class Pooling(StrEnum):
    """Which of a text's last hidden states make its vector. The same member is in option, reply and test."""

    MEAN = "mean"  # of all its tokens
    CLS = "cls"  # the first token's
    LAST = "last"  # the last token's: what decoders that embed were trained for


class Judges(StrEnum):
    """How a model says what fits to a query. The same member is in reply and test."""

    APART = "bi_encoder"  # a vector for each text, compared by the cosine
    TOGETHER = "cross_encoder"  # query and document are read as one


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that a cross-encoder reads as one."""

    first: str
    second: str


Input = str | tuple[int, ...] | Pair  # a text, token ids that are taken as they are, or two texts


@dataclass(frozen=True, slots=True)
class EmbedAsk:
    """Texts to embed together: they may be computed in several batches, and are answered at once."""

    inputs: tuple[Input, ...]  # at least one; pairs where the model judges TOGETHER, and never elsewhere
    dimensions: int | None = None  # the first so many numbers of each vector (Matryoshka); None: all of them
    normalise: bool | None = None  # to length 1; None: as the checkpoint has it
    truncate: bool = False  # cut what is longer than the context; False: InvalidRequest
    priority: Priority = Priority.STANDARD
    timeout: float | None = None  # seconds from arrival in which the answer is of use; None: no such limit
    tenant: str = ""  # who asks; "" = nobody said, or nobody who is believed
    came_with: CameWith = ALONE
    cache_scope: str = ""  # within the tenant, who may be answered from what was computed for this; "" = all of it


@dataclass(frozen=True, slots=True)
class Embedded:
    vectors: NDArray[np.float32]  # (inputs, dimensions), in the order of the inputs
    tokens: tuple[int, ...]  # of each input, special tokens included, as computed
    queue_wait: float  # seconds from arrival to the first batch that included an input
    compute: float  # seconds of the batches that held its inputs


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    dimensions: int
    max_tokens: int  # of one input, special tokens included
    pooling: Pooling
    normalises: bool  # unless the request says otherwise
    judges: Judges = Judges.APART
    bounds_scores: bool = False  # TOGETHER: scores go through the sigmoid; the checkpoint says so


class Embedder(Protocol):
    """What the doors ask. Cancelling the call frees what it held; a door keeps no queue of its own."""

    @property
    def facts(self) -> EmbedderFacts: ...

    async def embed(self, ask: EmbedAsk) -> Embedded:
        """Raises InvalidRequest naming `input` or `dimensions`, Overloaded, DeadlineExceeded, Draining."""
