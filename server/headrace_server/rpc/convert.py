"""Protobuf to and from the doors' shared values."""

from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Priority, Sampling
from headrace_server.rpc.answers import Piece, Usage
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.scores import Candidate, Score
from headrace_server.rpc.structured import Format, Kind, any_json_object

DEFAULT_NEW_TOKENS = 16  # as OpenAI's completions

FINISH: dict[Finish | None, pb.FinishReason] = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
}
PRIORITY: dict[pb.Priority, Priority] = {
    pb.PRIORITY_UNSPECIFIED: Priority.STANDARD,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_STANDARD: Priority.STANDARD,
    pb.PRIORITY_BATCH: Priority.BATCH,
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
            min_p=message.min_p,
            repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
            presence_penalty=message.presence_penalty,
            frequency_penalty=message.frequency_penalty,
            logit_bias=tuple(sorted(message.logit_bias.items())),
            min_tokens=message.min_tokens,
            logprobs=message.logprobs if message.HasField("logprobs") else None,
        ),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        format=_format(message),
        priority=_priority(message),
    )


def _priority(message: pb.GenerateRequest) -> Priority:
    if message.priority not in PRIORITY:  # proto3 lets any number through
        raise InvalidRequest("priority", f"is {message.priority}; must be a value of the enum Priority")
    return PRIORITY[message.priority]


def _prompt(message: pb.GenerateRequest) -> str | tuple[int, ...]:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "tokens":
            return tuple(message.tokens.ids)
        case _:
            raise InvalidRequest("prompt", "is missing; set `text` or `tokens`")


def _format(message: pb.GenerateRequest) -> Format | None:
    match message.WhichOneof("structured"):
        case "json_schema":
            return Format(Kind.JSON_SCHEMA, message.json_schema, "json_schema")
        case "regex":
            return Format(Kind.REGEX, message.regex, "regex")
        case "json_object":
            return any_json_object("json_object") if message.json_object else None
        case _:
            return None


def reply_to(piece: Piece) -> pb.GenerateReply:
    return pb.GenerateReply(
        text=piece.text,
        token_ids=piece.token_ids,
        finish_reason=FINISH[piece.finish],
        usage=None if piece.usage is None else _usage(piece.usage),
        logprobs=map(_score, piece.scores),
        prompt_logprobs=map(_score, piece.prompt_scores),
    )


def _score(score: Score) -> pb.Score:
    return pb.Score(chosen=_candidate(score.chosen), top=map(_candidate, score.top))


def _candidate(one: Candidate) -> pb.Candidate:
    return pb.Candidate(id=one.id, logprob=one.logprob, text=one.name)


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        generated_tokens=usage.generated_tokens,
        queue_wait_seconds=usage.queue_wait,
        ttft_seconds=usage.ttft,
    )
