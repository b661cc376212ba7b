"""Protobuf to and from the doors' shared values."""

import numpy as np
from numpy.typing import NDArray

from headrace_server.embedding import EmbedAsk, Embedded, Judges, Pooling
from headrace_server.errors import InvalidRequest
from headrace_server.request import Finish, Priority, Sampling
from headrace_server.rpc.answers import Piece, Usage
from headrace_server.rpc.ask import Ask, Chat
from headrace_server.rpc.embeddings import MOST_INPUTS
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.ranking import Judged, Match, Side, best_first
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
POOLING: dict[Pooling, pb.Pooling] = {
    Pooling.MEAN: pb.POOLING_MEAN,
    Pooling.CLS: pb.POOLING_CLS,
    Pooling.LAST: pb.POOLING_LAST,
}
RANKING: dict[Judges, pb.Ranking] = {
    Judges.APART: pb.RANKING_BI_ENCODER,
    Judges.TOGETHER: pb.RANKING_CROSS_ENCODER,
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
        priority=_priority(message.priority),
        adapter=message.adapter,
    )


def _priority(number: pb.Priority) -> Priority:
    if number not in PRIORITY:  # proto3 lets any number through
        raise InvalidRequest("priority", f"is {number}; must be a value of the enum Priority")
    return PRIORITY[number]


def _prompt(message: pb.GenerateRequest) -> str | tuple[int, ...] | Chat:
    match message.WhichOneof("prompt"):
        case "text":
            return message.text
        case "tokens":
            return tuple(message.tokens.ids)
        case "chat":
            return chat_from(message.chat)
        case _:
            raise InvalidRequest("prompt", "is missing; set `text`, `tokens` or `chat`")


def chat_from(message: pb.Chat) -> Chat:
    """Raises InvalidRequest."""
    if not message.messages:
        raise InvalidRequest("chat", "has no messages; send at least one")
    return Chat(tuple({"role": each.role, "content": each.content} for each in message.messages))


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
        prefill_seconds=max(0.0, usage.ttft - usage.queue_wait),
        decode_seconds=usage.decode,
        cached_prompt_tokens=usage.cached_tokens,
        computed_tokens=usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens,
    )


def embed_ask_from(message: pb.EmbedRequest) -> EmbedAsk:
    """Raises InvalidRequest."""
    if not 1 <= len(message.inputs) <= MOST_INPUTS:
        raise InvalidRequest("inputs", f"has {len(message.inputs)} inputs; send 1 to {MOST_INPUTS}")
    if message.HasField("dimensions") and message.dimensions < 1:
        raise InvalidRequest("dimensions", f"is {message.dimensions}; must be at least 1")
    return EmbedAsk(
        inputs=tuple(_input(place, each) for place, each in enumerate(message.inputs)),
        dimensions=message.dimensions if message.HasField("dimensions") else None,
        normalise=message.normalise if message.HasField("normalise") else None,
        truncate=message.truncate,
        priority=_priority(message.priority),
    )


def _input(place: int, message: pb.EmbedInput) -> str | tuple[int, ...]:
    found = tuple(message.tokens.ids) if message.WhichOneof("input") == "tokens" else message.text
    if not found:
        raise InvalidRequest("inputs", f"number {place} is empty; leave it out, or set `text` or `tokens`")
    return found


def embed_reply_to(found: Embedded) -> pb.EmbedReply:
    return pb.EmbedReply(
        vectors=float32(found.vectors),
        dimensions=found.vectors.shape[1],
        tokens=found.tokens,
        queue_wait_seconds=found.queue_wait,
        compute_seconds=found.compute,
    )


def match_from(message: pb.RerankRequest) -> tuple[Match, int | None]:
    """And how many of the best; None: all. Raises InvalidRequest."""
    if not message.query:
        raise InvalidRequest("query", "is empty; say what the documents are to fit to")
    if not 1 <= len(message.documents) < MOST_INPUTS:
        raise InvalidRequest("documents", f"has {len(message.documents)} texts; send 1 to {MOST_INPUTS - 1}")
    if empty := [place for place, text in enumerate(message.documents) if not text]:
        raise InvalidRequest("documents", "is empty; leave it out", place=empty[0])
    if message.HasField("top_n") and message.top_n < 1:
        raise InvalidRequest("top_n", f"is {message.top_n}; must be at least 1")
    match = Match(
        Side("query", (message.query,), is_list=False),
        Side("documents", tuple(message.documents)),
        truncate=message.truncate,
        raw=message.raw_scores,
        priority=_priority(message.priority),
    )
    return match, message.top_n if message.HasField("top_n") else None


def ranked_reply_to(found: Judged, top: int | None) -> pb.RerankReply:
    return pb.RerankReply(
        results=[
            pb.RankedDocument(index=place, score=float(found.scores[place])) for place in best_first(found.scores, top)
        ],
        computed_tokens=found.tokens,
        queue_wait_seconds=found.queue_wait,
        compute_seconds=found.compute,
    )


def float32(vectors: NDArray[np.float32]) -> bytes:
    """Little endian, row after row."""
    return vectors.astype("<f4", copy=False).tobytes()
