"""Whole answers of OpenAI's API: how likely their tokens were, asked for and taken out again."""

import json
from typing import Any

Document = dict[str, Any]
CHAT = "/v1/chat/completions"


def with_logprobs(path: str, asked: Document) -> Document:
    """The same question, so that its answer says how likely its tokens are."""
    if _are_asked_for(path, asked):
        return asked
    return {**asked, "logprobs": True if path == CHAT else 1}


def _are_asked_for(path: str, asked: Document) -> bool:
    told = asked.get("logprobs")
    return bool(told) if path == CHAT else told is not None


def logprobs(path: str, answered: Document) -> list[float]:
    """Of all tokens of all choices, in nats; empty for an answer that does not say."""
    found = [choice.get("logprobs") or {} for choice in answered.get("choices", ())]
    if path == CHAT:
        return [token["logprob"] for each in found for token in each.get("content") or ()]
    return [value for each in found for value in each.get("token_logprobs") or () if value is not None]


def as_asked(path: str, asked: Document, answered: Document) -> bytes:
    """The answer without what the client did not ask for."""
    if not _are_asked_for(path, asked):
        for choice in answered.get("choices", ()):
            choice["logprobs"] = None
    return json.dumps(answered).encode()
