"""One InferenceDeployment: is the promise kept, what comes in, what was decided and why, what is there for it."""

from dashboards.panels import HALF, Board, Choice, Panel, Query, Row

ME = 'namespace="$namespace", name="$name"'  # the operator's series
SERVED = 'namespace="$namespace", headrace_dev_deployment="$name"'  # the servers'
ROUTED = 'namespace="$namespace", headrace_dev_router="$name"'  # the routers'


def of_me(name: str, legend: str, *, may_be_empty: bool = False) -> Query:
    return Query(f"max by (namespace, name) (headrace_operator_{name}{{{ME}}})", legend, may_be_empty)


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    """Of all pods together."""
    rate = f"sum by (le) (rate(headrace_{histogram}_bucket{{{SERVED}}}[$__rate_interval]))"
    return tuple(Query(f"histogram_quantile({share:g}, {rate})", f"p{share * 100:g}") for share in shares)


def rate(counter: str, by: str) -> str:
    return f"sum by ({by}) (rate(headrace_{counter}{{{SERVED}}}[$__rate_interval]))"


def gauge(name: str, by: str = "pod") -> str:
    return f"sum by ({by}) (headrace_{name}{{{SERVED}}})"


def routed(counter: str, by: str, legend: str) -> Query:
    """Each second; nothing where no router is."""
    each = f"sum by ({by})" if by else "sum"
    return Query(f"{each} (rate(headrace_router_{counter}{{{ROUTED}}}[$__rate_interval]))", legend, may_be_empty=True)


PROMISE = Row(
    "The promise",
    (
        Panel(
            "Queue wait against its target",
            "p95 of the last 15 s, as the operator measures it. Above the target for long: see the row Decision.",
            (
                of_me("queue_wait_p95_seconds", "p95", may_be_empty=True),
                of_me("queue_wait_target_seconds", "target"),
            ),
            unit="s",
        ),
        Panel(
            "Queue wait",
            "From arrival to the first step, all pods.",
            quantiles("queue_wait_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            "Target missed",
            "Share of the time in which p95 was above its target; 1 % is allowed. Needs the rules of the chart.",
            tuple(
                Query(f"headrace:queue_wait_missed:ratio{window}{{{ME}}}", window, may_be_empty=True)
                for window in ("5m", "1h", "6h", "3d")
            ),
            unit="percentunit",
        ),
        Panel(
            "Time to the first token",
            "From arrival.",
            quantiles("time_to_first_token_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            "Time between tokens",
            "What a reader feels.",
            quantiles("inter_token_latency_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            "Whole requests",
            "From arrival to the end.",
            quantiles("request_duration_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
    ),
)

DEMAND = Row(
    "Demand",
    (
        Panel(
            "Requests",
            "Ended, by outcome. `failed` is the server's fault.",
            (Query(rate("requests_finished_total", "outcome"), "{{outcome}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Refused",
            "By reason. `overloaded` and `late` would have run on more replicas.",
            (Query(rate("requests_refused_total", "reason"), "{{reason}}", may_be_empty=True),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Tokens",
            "Computed a second. Prompts come in bursts, answers steadily.",
            (
                Query(f"sum(rate(headrace_prompt_tokens_total{{{SERVED}}}[$__rate_interval]))", "prompt"),
                Query(f"sum(rate(headrace_generation_tokens_total{{{SERVED}}}[$__rate_interval]))", "generation"),
            ),
            unit="tokens/s",
            stacked=True,
        ),
        Panel(
            "In the servers",
            "Waiting requests are in no step yet.",
            (
                Query(f"sum(headrace_requests_waiting{{{SERVED}}})", "waiting"),
                Query(f"sum(headrace_requests_running{{{SERVED}}})", "running"),
            ),
        ),
        Panel(
            "Waiting, by pod",
            "One full and the others idle: clients hold on to one connection.",
            (Query(gauge("requests_waiting"), "{{pod}}"),),
        ),
        Panel(
            "Demand against supply",
            "Tokens a second that arriving requests will need, and that ready replicas carry.",
            (
                of_me("demand_tokens_per_second", "demand", may_be_empty=True),
                of_me("tokens_per_second", "computed", may_be_empty=True),
                Query(
                    f"max by (namespace, name) (headrace_operator_replica_capacity_tokens_per_second{{{ME}}})"
                    f" * max by (namespace, name) (headrace_operator_ready_replicas{{{ME}}})",
                    "supply",
                    may_be_empty=True,
                ),
            ),
            unit="tokens/s",
        ),
    ),
)

DECISION = Row(
    "Decision",
    (
        Panel(
            "Replicas",
            "Wanted is what the load asks for, desired what was decided, within min and max. Blue lines are changes.",
            (
                of_me("wanted_replicas", "wanted", may_be_empty=True),
                of_me("desired_replicas", "desired"),
                of_me("ready_replicas", "ready"),
                of_me("min_replicas", "min"),
                of_me("max_replicas", "max"),
            ),
            span=HALF,
        ),
        Panel(
            "Who proposes how many",
            "The highest counts; `headrace explain` has the numbers behind each.",
            (Query(f"max by (signal) (headrace_operator_proposed_replicas{{{ME}}})", "{{signal}}"),),
            span=HALF,
        ),
        Panel(
            "Why the number is what it is",
            "The reason of the last decision; docs/autoscaling.md explains each.",
            (Query(f"max by (reason) (headrace_operator_reason{{{ME}}})", "{{reason}}"),),
            stacked=True,
            most=1,
            span=HALF,
        ),
        Panel(
            "Decisions",
            "Looks by reason, doing nothing included.",
            (
                Query(
                    "sum by (direction, reason)"
                    f" (increase(headrace_operator_decisions_total{{{ME}}}[$__rate_interval]))",
                    "{{direction}} {{reason}}",
                ),
            ),
            stacked=True,
            span=HALF,
        ),
    ),
)

CAPACITY = Row(
    "Capacity",
    (
        Panel(
            "Pods",
            "By what they are doing.",
            (Query(f"sum by (role, phase) (headrace_operator_pods{{{ME}}})", "{{role}} {{phase}}"),),
            stacked=True,
        ),
        Panel(
            "Starts",
            "The longest start under way, and what is usual.",
            (of_me("oldest_start_seconds", "under way"), of_me("start_seconds", "usual")),
            unit="s",
        ),
        Panel(
            "KV cache",
            "Share of the pages that a new request cannot have.",
            (Query(gauge("kv_pressure"), "{{pod}}"),),
            unit="percentunit",
            most=1,
        ),
        Panel("Batch size", "Sequences in a step.", quantiles("batch_size", 0.5, 0.95)),
        Panel(
            "Preempted",
            "Running requests that gave up their pages to others; their tokens are computed again.",
            (Query(rate("preemptions_total", "pod"), "{{pod}}"),),
            unit="ops",
        ),
        Panel(
            "GPU",
            "Busy SMs, tensor operations, memory bandwidth: shares of the last second. On GPUs with GPM only.",
            tuple(
                Query(f"avg(headrace_gpu_{what}_activity{{{SERVED}}})", what, may_be_empty=True)
                for what in ("sm", "tensor", "dram")
            ),
            unit="percentunit",
            most=1,
        ),
    ),
)

ROUTERS = Row(
    "Routers",
    (
        Panel(
            "Requests through routers",
            "By what became of them. Empty where spec.routing asks for no routers.",
            (routed("requests_total", "reason", "{{reason}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Held now",
            "Because no replica is ready.",
            (Query(f"sum by (pod) (headrace_router_held_requests{{{ROUTED}}})", "{{pod}}", may_be_empty=True),),
            stacked=True,
        ),
        Panel(
            "Waiting for a replica",
            "The oldest held request, and the p95 of those that were held.",
            (
                Query(f"max(headrace_router_oldest_held_seconds{{{ROUTED}}})", "oldest", may_be_empty=True),
                Query(
                    "histogram_quantile(0.95, sum by (le)"
                    f" (rate(headrace_router_held_seconds_bucket{{{ROUTED}}}[$__rate_interval])))",
                    "p95",
                    may_be_empty=True,
                ),
            ),
            unit="s",
        ),
        Panel(
            "Replicas that routers use",
            "As each router sees them: where they differ, one router does not hear the API server.",
            (Query(f"sum by (pod) (headrace_router_replicas{{{ROUTED}}})", "{{pod}}", may_be_empty=True),),
        ),
        Panel(
            "Out of reach",
            "Requests whose first replica did not answer, and times that one was left out for a while.",
            (routed("unreached_total", "", "not reached"), routed("ejections_total", "", "left out")),
            unit="ops",
        ),
        Panel(
            "Revisions",
            "Where requests went while a revision is on trial, and copies to mirrors.",
            (
                routed("revision_requests_total", "revision", "{{revision}}"),
                routed("mirrored_total", "", "copies"),
            ),
            unit="reqps",
        ),
    ),
)

BOARD = Board(
    file="deployment",
    title="Headrace / one deployment",
    help="Is the promise of one InferenceDeployment kept, and why does it have as many replicas as it has?",
    rows=(PROMISE, DEMAND, DECISION, CAPACITY, ROUTERS),
    choices=(
        Choice("namespace", "label_values(headrace_operator_desired_replicas, namespace)"),
        Choice("name", 'label_values(headrace_operator_desired_replicas{namespace="$namespace"}, name)'),
    ),
    events=Query(
        f"headrace_operator_last_change_timestamp_seconds{{{ME}}} * 1000",
        "{{direction}}: {{reason}}",
        may_be_empty=True,
    ),
)
