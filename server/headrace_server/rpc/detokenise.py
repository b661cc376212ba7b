"""Token ids back to text, one at a time: whole characters only, and never a stop string.

    id ──► Detokeniser.feed ──► text ──► StopStrings.feed ──► text that can never become a stop string

Both hold back a bounded tail, so the cost of a token does not grow with the answer.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# A character is at most 4 bytes, so 8 ids without text are no unfinished character but bytes that never become one,
# or special tokens. Held longer, they would make each step slower than the last.
LONGEST_HOLD = 8
CONTEXT = 4  # ids of the prompt that tell whether the first word keeps its leading space


def context(tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The ids before the answer that decide how its first word is written."""
    tail = list(prompt[-CONTEXT:])
    # A prompt given as ids may end inside a character; as context it would come out again as part of the answer.
    return [] if tokenizer.decode(tail).endswith("\ufffd") else tail


class Detokeniser:
    """The text of one answer: joined, the pieces are what the tokenizer makes of all ids at once.

    Where ids are no text (a run of LONGEST_HOLD broken bytes) only the number of U+FFFD may differ.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []
        self._stream = DecodeStream(ids=context(tokenizer, prompt), skip_special_tokens=True)

    def feed(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is unfinished."""
        self._held.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception:  # the library raises a bare Exception when broken bytes change earlier text
            return self.flush()
        if text is not None:
            self._held.clear()
            return str(text)
        return self.flush() if len(self._held) >= LONGEST_HOLD else ""

    def flush(self) -> str:
        """What is held, with U+FFFD for bytes that no character came of."""
        text = str(self._tokenizer.decode(self._held))
        self._held.clear()
        self._stream = DecodeStream(skip_special_tokens=True)
        return text


class Detokenises(Protocol):
    def feed(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class Timed:
    """A detokeniser that knows how long it took, for traces."""

    def __init__(self, inner: Detokenises, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._inner = inner
        self._clock = clock

    def feed(self, token_id: int) -> str:
        began = self._clock()
        text = self._inner.feed(token_id)
        self.seconds += self._clock() - began
        return text

    def flush(self) -> str:
        began = self._clock()
        text = self._inner.flush()
        self.seconds += self._clock() - began
        return text


class StopStrings:
    """Passes text on until a stop string is complete, and holds back what might become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What may be shown now. After `found` nothing more will come."""
        self._held += text
        starts = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._release(min(starts))
        return self._release(len(self._held) - self._longest_beginning())

    def flush(self) -> str:
        """The rest, when the answer ended without completing a stop string."""
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(max((len(stop) for stop in self._stops), default=0) - 1, len(self._held))
        ends = (length for length in range(longest, 0, -1) if self._begins_a_stop(self._held[-length:]))
        return next(ends, 0)

    def _begins_a_stop(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
