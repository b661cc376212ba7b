"""Whether an answer ends with the token that was just added to it, and why."""

from headrace_server.engine.grammar import Guide
from headrace_server.engine.sequence import Sequence
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish


def finish_after(sequence: Sequence, token_id: int) -> Finish | None:
    request = sequence.request
    if request.max_new_tokens > 0 and token_id in request.stop_token_ids:
        return Finish.STOP
    if request.stops is not None and request.stops.feed(token_id):
        return Finish.STOP
    if sequence.guide is not None and (finish := _guided(sequence, sequence.guide, token_id)):
        return finish
    return Finish.LENGTH if len(sequence.answer) >= request.max_new_tokens else None


def _guided(sequence: Sequence, guide: Guide, token_id: int) -> Finish | None:
    try:
        return Finish.STOP if guide.accept(token_id) else None
    except InvalidRequest as fault:
        sequence.fault = fault
        return Finish.FAILED
