"""Calls to the API server as a metric tells them: Kubernetes' verb, the resource, the answer's code. Bounded labels."""

from headrace_operator.kube import APPLY, Call
from headrace_operator.metrics import OperatorMetrics

VERBS = {"POST": "create", "PUT": "update", "DELETE": "delete"}


def count(metrics: OperatorMetrics, call: Call) -> None:
    metrics.api_requests.labels(verb(call), resource(call.path), call.status).inc()
    metrics.api_request_seconds.labels(verb(call)).observe(call.seconds)


def verb(call: Call) -> str:
    if call.method == "PATCH":
        return "apply" if call.content_type == APPLY else "patch"
    if call.method == "GET":
        return "get" if _words(call.path)[1:] else "list"
    return VERBS[call.method]


def resource(path: str) -> str:
    """As in a Role: `pods`, `inferencedeployments/status`. Names of objects and namespaces are left out."""
    plural, *rest = _words(path)
    return "/".join([plural, *rest[1:]])


def _words(path: str) -> list[str]:
    """Plural, name and subresource, as far as they are there."""
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]  # api/v1, apis/GROUP/VERSION
    return words[2:] if words[0] == "namespaces" and len(words) > 2 else words
