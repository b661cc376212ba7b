"""OpenAI's JSON of files and batches, and what a client sends to make a batch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.batches.values import WINDOW, Batch, File, Order, Page, State
from headrace_server.rpc.body import JsonBody

EXPIRY = "output_expires_after"
WINDOW_NAME = f"{WINDOW // 3600}h"
# Every state but the first has a time of its own; the first one's is `created_at`.
TIMES = {f"{state}_at": state for state in State if state is not State.VALIDATING}
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class NewBatch(JsonBody):
    input_file_id: str
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/v1/score"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest naming the field."""
        if document.get(EXPIRY) is not None:
            raise InvalidRequest(EXPIRY, "is not served; files stay until they are deleted")
        return super().of({name: value for name, value in document.items() if name != EXPIRY})

    def order(self, tenant: str) -> Order:
        return Order(tenant, self.endpoint, self.input_file_id, self.metadata)


def page_from(query: Mapping[str, str], default: int, most: int) -> Page:
    """Raises InvalidRequest."""
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= most):
        raise InvalidRequest("limit", f"is {limit}; must be from 1 to {most}")
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("order", f"is {order!r}; must be asc or desc")
    return Page(int(limit), query.get("after"), ascending=order == "asc")


def listing(found: Sequence[dict[str, Any]], page: Page) -> dict[str, Any]:
    """`found` holds one more than the page when there are more."""
    data = found[: page.limit]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    more = len(found) > page.limit
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def file_body(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def batch_body(batch: Batch) -> dict[str, Any]:
    errors = {"object": "list", "data": [_error(fault) for fault in batch.faults]} if batch.faults else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.order.endpoint,
        "errors": errors,
        "input_file_id": batch.order.input_file_id,
        "completion_window": WINDOW_NAME,
        "status": batch.state,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{name: batch.entered.get(state) for name, state in TIMES.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.order.metadata,
    }


def _error(fault: Mapping[str, object]) -> dict[str, object]:
    return {"code": fault["code"], "message": fault["message"], "param": fault["field"], "line": fault["line"]}
