"""OpenAI's /v1/embeddings: texts or token ids in, vectors out as numbers or as base64 of little-endian float32."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from headrace_server.embedding import EmbedAsk, Embedded
from headrace_server.rpc.body import ModelBody
from headrace_server.rpc.openai import IGNORED

MOST_INPUTS = 2048  # of one request, as OpenAI's
Vector = NDArray[np.float32]


class EmbeddingBody(ModelBody):
    input: tuple[str | tuple[int, ...], ...]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    # Not OpenAI's, but vLLM takes them, by these names:
    normalize: bool | None = None
    truncate_prompt_tokens: Literal[-1] | None = None  # -1: cut what is longer than the context, instead of refusing it

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest naming the field in the client's words."""
        return super().of({name: value for name, value in document.items() if name not in IGNORED})

    @field_validator("input", mode="plain", json_schema_input_type=str | list[str] | list[int] | list[list[int]])
    @classmethod
    def _one_or_several(cls, given: Any) -> tuple[str | tuple[int, ...], ...]:
        several = _inputs(given)
        if not 1 <= len(several) <= MOST_INPUTS:
            raise ValueError(f"holds {len(several)} inputs; 1 to {MOST_INPUTS} are allowed in one request")
        if empty := [place for place, one in enumerate(several) if not one]:
            raise ValueError(f"number {empty[0]} is empty; leave it out")
        return several

    def ask(self) -> EmbedAsk:
        return EmbedAsk(
            inputs=self.input,
            dimensions=self.dimensions,
            normalise=self.normalize,
            truncate=self.truncate_prompt_tokens is not None,
            priority=self.urgency(),
            timeout=self.timeout,
        )

    def reply(self, found: Embedded) -> dict[str, Any]:
        """For orjson: vectors are numpy's."""
        written = _base64 if self.encoding_format == "base64" else _numbers
        tokens = sum(found.tokens)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": place, "embedding": written(vector)}
                for place, vector in enumerate(found.vectors)
            ],
            "model": self.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _inputs(given: Any) -> tuple[str | tuple[int, ...], ...]:
    match given:
        case str():
            return (given,)
        case list() if all(type(one) is int for one in given) and given:
            return (tuple(given),)
        case list() if all(isinstance(one, str) for one in given):
            return tuple(given)
        case list() if all(_are_ids(one) for one in given):
            return tuple(tuple(one) for one in given)
        case _:
            raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")


def _are_ids(one: Any) -> bool:
    return isinstance(one, list) and all(type(token_id) is int for token_id in one)


def _numbers(vector: Vector) -> Vector:
    return np.ascontiguousarray(vector)


def _base64(vector: Vector) -> str:
    """What OpenAI's SDK asks for: a third of the bytes, and nothing to parse."""
    return b64encode(vector.astype("<f4", copy=False).tobytes()).decode()
