"""What a batch needs next, by its state and the time."""

from enum import StrEnum

from headrace_server.rpc.batches.values import Batch, State


class Move(StrEnum):
    NONE = "none"  # its requests run, or it is final
    VALIDATE = "validate"
    CANCEL = "cancel"  # stop what runs, and say of the rest that it was cancelled
    EXPIRE = "expire"  # likewise, that it is too late
    FINALIZE = "finalize"  # every request has its result: write the files


def next_move(batch: Batch, now: float) -> Move:
    """`now`: seconds since 1970."""
    match batch.state:
        case State.CANCELLING if not batch.is_answered:
            return Move.CANCEL
        case State.VALIDATING | State.IN_PROGRESS if now >= batch.expires_at and not batch.is_answered:
            return Move.EXPIRE
        case State.VALIDATING:
            return Move.VALIDATE
        case State.IN_PROGRESS if not batch.is_answered:
            return Move.NONE
        case State.IN_PROGRESS | State.FINALIZING | State.CANCELLING:
            return Move.FINALIZE
        case _:
            return Move.NONE
