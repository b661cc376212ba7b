"""What the HTTP door says when it is not streaming: JSON, and every refusal and failure in OpenAI's shape."""

import logging
from collections.abc import Mapping

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from headrace_server.errors import ServerError
from headrace_server.metrics import ServerMetrics
from headrace_server.rpc.request_ids import request_id
from headrace_server.rpc.shapes import error_body, refusal_body
from headrace_server.rpc.status import http_headers, status_of

CODES = {404: "unknown_url", 405: "method_not_supported"}  # OpenAI's
FAILED = "the server failed; its log says why"
log = logging.getLogger(__name__)


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """`document` may hold numpy's arrays."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


def errors_as_openai(metrics: ServerMetrics) -> Middleware:
    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ServerError as error:
            return _refusal(error, metrics)
        except web.HTTPException as error:  # unknown path, wrong method, body too large
            message = f"{request.method} {request.path}: {error.text or error.reason}"
            allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return _invalid(message, error.status, allowed)
        except (
            web.RequestPayloadError,
            HttpProcessingError,
        ) as broken:  # a body that is not encoded as its header says
            return _invalid(f"body: cannot be read: {broken}", 400)
        except ConnectionError:  # the client has gone
            raise
        except Exception:
            log.exception("%s %s (%s)", request.method, request.path, request_id(request))
            return json_response(error_body(FAILED, "server_error", None), status=500)

    return answer_errors


def _refusal(error: ServerError, metrics: ServerMetrics) -> web.Response:
    status = status_of(error)
    if status.refusal is not None:
        metrics.requests_refused.labels(status.refusal).inc()
    return json_response(refusal_body(error), status=status.http, headers=http_headers(error))


def _invalid(message: str, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    # A path may hold what is no text: half a surrogate cannot be written as JSON.
    message = message.encode(errors="replace").decode()
    return json_response(error_body(message, "invalid_request_error", None, CODES.get(status)), status, headers)
