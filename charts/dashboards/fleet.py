"""All InferenceDeployments at a glance, and the operator that looks after them."""

from dashboards.panels import HALF, QUARTER, Board, Choice, Panel, Query, Row

ALL = 'namespace=~"$namespace"'


def quantile(share: float, histogram: str, by: str = "le") -> str:
    return (
        f"histogram_quantile({share:g}, sum by ({by}) (rate(headrace_operator_{histogram}_bucket[$__rate_interval])))"
    )


NOW = Row(
    "Now",
    (
        Panel(
            "Alerts",
            "That fire; docs/runbooks says what to do.",
            (Query('count(ALERTS{alertname=~"Headrace.*", alertstate="firing"}) or vector(0)', "alerts"),),
            span=QUARTER,
            number=True,
        ),
        Panel(
            "Deployments",
            "That the operator knows.",
            (Query("max(headrace_operator_inferencedeployments)", "deployments"),),
            span=QUARTER,
            number=True,
        ),
        Panel(
            "Replicas ready",
            "Of all that are desired.",
            (
                Query(f"sum(max by (namespace, name) (headrace_operator_ready_replicas{{{ALL}}}))", "ready"),
                Query(f"sum(max by (namespace, name) (headrace_operator_desired_replicas{{{ALL}}}))", "desired"),
            ),
            span=QUARTER,
            number=True,
        ),
        Panel(
            "Leaders",
            "One leads, the others stand by.",
            (
                Query("sum(headrace_operator_is_leader)", "leaders"),
                Query("count(headrace_operator_is_leader)", "operators"),
            ),
            span=QUARTER,
            number=True,
        ),
    ),
)

PROMISES = Row(
    "Promises",
    (
        Panel(
            "Queue wait over its target",
            "p95 as a share of the target, the worst ten; above 1 the promise is broken.",
            (
                Query(
                    f"topk(10, max by (namespace, name) (headrace_operator_queue_wait_p95_seconds{{{ALL}}})"
                    f" / max by (namespace, name) (headrace_operator_queue_wait_target_seconds{{{ALL}}}))",
                    "{{namespace}}/{{name}}",
                    may_be_empty=True,
                ),
            ),
            unit="percentunit",
            span=HALF,
        ),
        Panel(
            "Replicas that are missing",
            "Wanted by the load and not ready, the ten worst.",
            (
                Query(
                    f"topk(10, clamp_min(max by (namespace, name) (headrace_operator_wanted_replicas{{{ALL}}})"
                    f" - max by (namespace, name) (headrace_operator_ready_replicas{{{ALL}}}), 0))",
                    "{{namespace}}/{{name}}",
                    may_be_empty=True,
                ),
            ),
            span=HALF,
        ),
        Panel(
            "Tokens",
            "Computed a second, the ten busiest.",
            (
                Query(
                    f"topk(10, max by (namespace, name) (headrace_operator_tokens_per_second{{{ALL}}}))",
                    "{{namespace}}/{{name}}",
                    may_be_empty=True,
                ),
            ),
            unit="tokens/s",
        ),
        Panel(
            "Pods",
            "By what they are doing.",
            (Query(f"sum by (phase) (headrace_operator_pods{{{ALL}}})", "{{phase}}"),),
            stacked=True,
        ),
        Panel(
            "Reasons",
            "Deployments by the reason of their last decision.",
            (Query(f"sum by (reason) (headrace_operator_reason{{{ALL}}})", "{{reason}}"),),
            stacked=True,
        ),
    ),
)

OPERATOR = Row(
    "The operator",
    (
        Panel(
            "Between two looks at an object",
            "p99 above twice the interval means that the operator lacks CPU.",
            (
                Query(quantile(0.5, "look_interval_seconds"), "p50"),
                Query(quantile(0.99, "look_interval_seconds"), "p99"),
            ),
            unit="s",
        ),
        Panel(
            "One look",
            "Observe, decide, act.",
            (Query(quantile(0.5, "reconcile_seconds"), "p50"), Query(quantile(0.99, "reconcile_seconds"), "p99")),
            unit="s",
        ),
        Panel(
            "Looks",
            "By result.",
            (Query("sum by (result) (rate(headrace_operator_reconciles_total[$__rate_interval]))", "{{result}}"),),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Work queue",
            "Objects that wait, are looked at, or back off after a failure.",
            (Query("sum by (state) (headrace_operator_queue_depth)", "{{state}}"),),
        ),
        Panel(
            "The longest wait for a look",
            "Of the objects in the work queue.",
            (Query("max(headrace_operator_queue_oldest_seconds)", "oldest"),),
            unit="s",
        ),
        Panel(
            "Calls to the API server",
            "By code; 0 is no answer.",
            (Query("sum by (code) (rate(headrace_operator_api_requests_total[$__rate_interval]))", "{{code}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Time of a call",
            "p99.",
            (Query(quantile(0.99, "api_request_seconds", "le, verb"), "{{verb}}"),),
            unit="s",
        ),
        Panel(
            "Scrapes that failed",
            "By reason. `refused` is usual while pods start.",
            (
                Query(
                    "sum by (reason) (rate(headrace_operator_scrape_errors_total[$__rate_interval]))",
                    "{{reason}}",
                    may_be_empty=True,
                ),
            ),
            unit="ops",
        ),
        Panel(
            "Silence of the watches",
            "Time since each was heard.",
            (
                Query(
                    "time() - max by (resource) (headrace_operator_watch_last_event_timestamp_seconds)", "{{resource}}"
                ),
            ),
            unit="s",
        ),
        Panel(
            "Repaired by lists",
            "Changes that a watch missed, and the full list of every 30 s showed.",
            (
                Query(
                    "sum by (resource) (increase(headrace_operator_list_repairs_total[$__rate_interval]))",
                    "{{resource}}",
                ),
            ),
        ),
        Panel(
            "Memory",
            "Resident bytes of each operator.",
            (Query("process_resident_memory_bytes and on (instance) headrace_operator_is_leader", "{{instance}}"),),
            unit="bytes",
        ),
    ),
)

BOARD = Board(
    file="fleet",
    title="Headrace / all deployments",
    help="Which InferenceDeployments need somebody, and is the operator well?",
    rows=(NOW, PROMISES, OPERATOR),
    choices=(Choice("namespace", "label_values(headrace_operator_desired_replicas, namespace)", all=True),),
)
