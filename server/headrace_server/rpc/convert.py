"""Protobuf to and from the doors' shared values."""

from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Sampling
from headrace_server.rpc.answers import Piece, Usage
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.pb import inference_pb2 as pb

DEFAULT_NEW_TOKENS = 16  # as OpenAI's completions

FINISH: dict[Finish | None, pb.FinishReason] = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
}


def ask_from(message: pb.GenerateRequest) -> Ask:
    """Raises InvalidRequest."""
    return Ask(
        prompt=_prompt(message),
        max_new_tokens=message.max_new_tokens if message.HasField("max_new_tokens") else None,
        default_new_tokens=DEFAULT_NEW_TOKENS,
        sampling=Sampling(
            temperature=message.temperature,
            top_k=message.top_k,
            top_p=message.top_p if message.HasField("top_p") else 1.0,
            seed=message.seed if message.HasField("seed") else None,
        ),
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
    )


def _prompt(message: pb.GenerateRequest) -> str | tuple[int, ...]:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "tokens":
            return tuple(message.tokens.ids)
        case _:
            raise InvalidRequest("prompt", "is missing; set `text` or `tokens`")


def reply_to(piece: Piece) -> pb.GenerateReply:
    return pb.GenerateReply(
        text=piece.text,
        token_ids=piece.token_ids,
        finish_reason=FINISH[piece.finish],
        usage=None if piece.usage is None else _usage(piece.usage),
    )


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        queue_wait_seconds=usage.queue_wait,
        ttft_seconds=usage.ttft,
    )
