"""Routers before several models: which of them answers, how often the small one is unsure, and what answers cost."""

from dashboards.panels import HALF, Board, Choice, Panel, Query, Row

ROUTED = 'namespace="$namespace", headrace_dev_router="$router"'
# Every router charges all replicas: of several routers, the one that says most. Requests are each router's own.
COST = f"max by (model) (rate(headrace_router_model_cost_total{{{ROUTED}}}[$__rate_interval]))"
READY = f"max by (model) (rate(headrace_router_model_replica_seconds_total{{{ROUTED}}}[$__rate_interval]))"


def rate(counter: str, by: str = "") -> str:
    """Each second, of all routers together."""
    return f"sum by ({by}) (rate(headrace_router_{counter}{{{ROUTED}}}[$__rate_interval]))"


def seen(expr: str, legend: str = "{{model}}") -> Query:
    """Nothing where no router stands before several models."""
    return Query(expr, legend, may_be_empty=True)


ANSWERS = Row(
    "Who answers",
    (
        Panel(
            "Requests",
            "By the model that they went to. An unsure answer counts with both models.",
            (seen(rate("model_requests_total", "model")),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Shares",
            "Of all requests. The cheaper model's share is what the router saves.",
            (
                seen(
                    f"{rate('model_requests_total', 'model')} / on() group_left() ({rate('model_requests_total')} > 0)",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Rules",
            "Which rule sent them there; `default`: none fitted, `fallback`: another model was unsure.",
            (seen(rate("model_requests_total", "model, rule"), "{{rule}}: {{model}}"),),
            unit="reqps",
            stacked=True,
        ),
    ),
)

FALLBACK = Row(
    "Fallback",
    (
        Panel(
            "Whole answers",
            "Sure ones, unsure ones that the other model gave instead, and those kept because it did not answer.",
            (seen(rate("fallbacks_total", "outcome"), "{{outcome}}"),),
            unit="reqps",
            stacked=True,
            span=HALF,
        ),
        Panel(
            "Unsure",
            "Share of the whole answers that may be asked again. Near 1: the small model only adds its own time.",
            (
                seen(
                    # There is no series of sure ones before the first.
                    f'1 - (sum(rate(headrace_router_fallbacks_total{{{ROUTED}, outcome="Sure"}}[$__rate_interval]))'
                    f" or vector(0)) / ({rate('fallbacks_total')} > 0)",
                    "unsure",
                ),
            ),
            unit="percentunit",
            most=1,
            span=HALF,
        ),
    ),
)

MONEY = Row(
    "Money",
    (
        Panel("Replicas", "That may be given requests, idle ones included.", (seen(READY),)),
        Panel(
            "Cost of an hour",
            "Ready replicas at their costPerHour, in its currency.",
            (seen(f"3600 * {COST}"),),
            stacked=True,
        ),
        Panel(
            "Cost of 1000 requests",
            "What a request to each model costs at this load; an idle replica makes the next request dearer.",
            (seen(f"1000 * {COST} / ({rate('model_requests_total', 'model')} > 0)"),),
        ),
    ),
)

HOLDING = Row(
    "Held and refused",
    (
        Panel(
            "Held now",
            "By the model of which no replica is ready.",
            (seen(f"sum by (model) (headrace_router_model_held_requests{{{ROUTED}}})"),),
            stacked=True,
        ),
        Panel(
            "The oldest held request",
            "The operator brings replicas where spec.routing.modelRouters names these routers; else you have to.",
            (seen(f"max by (model) (headrace_router_model_oldest_held_seconds{{{ROUTED}}})"),),
            unit="s",
        ),
        Panel(
            "What became of requests",
            "Given to a replica, or refused, and why.",
            (seen(rate("requests_total", "reason"), "{{reason}}"),),
            unit="reqps",
            stacked=True,
        ),
    ),
)

BOARD = Board(
    file="models",
    title="Headrace / several models",
    help="Which model answers, how often is the small one unsure, and what does an answer cost?",
    rows=(ANSWERS, FALLBACK, MONEY, HOLDING),
    choices=(
        Choice("namespace", 'label_values(headrace_router_model_cost_total{model!=""}, namespace)'),
        Choice(
            "router",
            'label_values(headrace_router_model_cost_total{namespace="$namespace", model!=""}, headrace_dev_router)',
        ),
    ),
)
