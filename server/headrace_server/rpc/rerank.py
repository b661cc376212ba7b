"""/v1/rerank as Cohere, Jina, vLLM and infinity have it, and vLLM's /score: how well documents fit to a query."""

from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace_server.rpc.body import ModelBody
from headrace_server.rpc.embeddings import MOST_INPUTS
from headrace_server.rpc.ranking import Judged, Match, Side, best_first


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    text: str


class JudgeBody(ModelBody):
    """What both share."""

    raw_scores: bool = False  # infinity's: a cross-encoder's own score, not brought between 0 and 1
    truncate_prompt_tokens: Literal[-1] | None = None  # -1: cut what is longer than the context, instead of refusing it

    def between(self, first: Side, second: Side) -> Match:
        truncate = self.truncate_prompt_tokens is not None
        return Match(first, second, truncate, self.raw_scores, self.urgency(), self.timeout)


class RerankBody(JudgeBody):
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MOST_INPUTS - 1)]
    top_n: Annotated[int, Field(ge=1)] | None = None  # None: all of them
    return_documents: bool = False

    @field_validator("documents")
    @classmethod
    def _none_empty(cls, documents: list[str | Document]) -> list[str | Document]:
        if empty := [place for place, each in enumerate(documents) if not _text(each)]:
            raise ValueError(f"number {empty[0]} is empty; leave it out")
        return documents

    def match(self) -> Match:
        query = Side("query", (self.query,), is_list=False)
        return self.between(query, Side("documents", tuple(map(_text, self.documents))))

    def reply(self, found: Judged, _created: int) -> dict[str, Any]:
        return {
            "id": f"rerank-{uuid4().hex}",
            "object": "rerank",
            "model": self.model,
            "results": [
                self._result(place, float(found.scores[place])) for place in best_first(found.scores, self.top_n)
            ],
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }

    def _result(self, place: int, score: float) -> dict[str, Any]:
        shown = {"document": {"text": _text(self.documents[place])}} if self.return_documents else {}
        return {"index": place, "relevance_score": score} | shown


class ScoreBody(JudgeBody):
    text_1: str | list[str]
    text_2: str | list[str]

    @field_validator("text_1", "text_2")
    @classmethod
    def _some(cls, given: str | list[str]) -> str | list[str]:
        several = [given] if isinstance(given, str) else given
        if not 1 <= len(several) <= MOST_INPUTS // 2:
            raise ValueError(f"holds {len(several)} texts; 1 to {MOST_INPUTS // 2} are allowed in one request")
        if empty := [place for place, text in enumerate(several) if not text]:
            raise ValueError(f"number {empty[0]} is empty; leave it out")
        return given

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        first, second = len(_side("", self.text_1).texts), len(_side("", self.text_2).texts)
        if first not in (1, second):
            raise ValueError(f"text_1 holds {first} texts and text_2 {second}; send one, or as many")
        return self

    def match(self) -> Match:
        return self.between(_side("text_1", self.text_1), _side("text_2", self.text_2))

    def reply(self, found: Judged, created: int) -> dict[str, Any]:
        """`created`: seconds since 1970."""
        return {
            "id": f"score-{uuid4().hex}",
            "object": "list",
            "created": created,
            "model": self.model,
            "data": [
                {"index": place, "object": "score", "score": float(score)} for place, score in enumerate(found.scores)
            ],
            "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        }


def _text(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text


def _side(field: str, given: str | list[str]) -> Side:
    return Side(field, (given,), is_list=False) if isinstance(given, str) else Side(field, tuple(given))
