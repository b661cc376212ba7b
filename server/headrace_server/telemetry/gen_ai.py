"""OpenTelemetry's GenAI server metrics, under the names that their Prometheus form has."""

from headrace_server.metrics import ServerMetrics
from headrace_server.telemetry.answered import Answered

PROVIDER = "headrace"


class GenAiMetrics:
    def __init__(self, metrics: ServerMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def hear(self, answered: Answered) -> None:
        metrics = self._metrics
        if answered.came_with.attempts_before:
            metrics.requests_retried.inc()
        labels = (answered.operation, PROVIDER, self._model, answered.error or "")
        metrics.gen_ai_request_duration.labels(*labels).observe(answered.ended - answered.arrived)
        first, last = answered.first_token, answered.last_token
        if first is None or last is None:
            return
        metrics.gen_ai_time_to_first_token.labels(*labels).observe(first - answered.arrived)
        if (gaps := answered.generated_tokens - 1) > 0:
            metrics.gen_ai_time_per_output_token.labels(*labels).observe((last - first) / gaps)
