"""Whose deadline is next: O(log n) a request."""

import heapq

from headrace_server.engine.sequence import Sequence

SLACK = 64  # ended requests that may lie in the heap before it is built anew


class Deadlines:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []  # the number makes the order total
        self._gone = 0  # in the heap, and ended otherwise

    def add(self, sequence: Sequence) -> None:
        if sequence.request.deadline is not None:
            heapq.heappush(self._heap, (sequence.request.deadline, sequence.number, sequence))

    def ended(self, sequence: Sequence) -> None:
        """It needs no deadline any more. It leaves the heap later: a client with far deadlines must not fill it."""
        if sequence.request.deadline is None:
            return
        self._gone += 1
        if self._gone > SLACK + len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[2].released]
            heapq.heapify(self._heap)
            self._gone = 0

    def passed(self, now: float) -> list[Sequence]:
        """Those who have not ended, and whose deadline is over. Each is told once."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            sequence = heapq.heappop(self._heap)[2]
            if sequence.released:
                self._gone -= 1
            else:
                late.append(sequence)
        return late
