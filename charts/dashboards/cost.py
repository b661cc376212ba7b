"""What the GPUs do for their money: utilization, idle time, work done twice, and the price of a million tokens."""

from dashboards.panels import HALF, Board, Choice, Panel, Query, Row

SERVED = 'namespace=~"$namespace", headrace_dev_deployment=~"$name"'
BY = "namespace, headrace_dev_deployment"
WHO = "{{namespace}}/{{headrace_dev_deployment}}"


def rate(counter: str) -> str:
    return f"sum by ({BY}) (rate(headrace_{counter}{{{SERVED}}}[$__rate_interval]))"


def gauge(name: str) -> str:
    return f"sum by ({BY}) (headrace_{name}{{{SERVED}}})"


TOKENS = f"({rate('prompt_tokens_total')} + {rate('generation_tokens_total')})"
PODS = f"count by ({BY}) (headrace_ready{{{SERVED}}})"

MONEY = Row(
    "Money",
    (
        Panel(
            "A million tokens",
            "Prompt and answer tokens, at the price of a replica's hour above. Idle replicas cost, too.",
            (Query(f"$hour_price * {PODS} / 3600 / ({TOKENS} > 0) * 1e6", WHO),),
            unit="short",
            span=HALF,
        ),
        Panel(
            "Replica-hours a day",
            "At today's number of pods, those that start included.",
            (Query(f"24 * {PODS}", WHO),),
            unit="h",
            span=HALF,
        ),
        Panel(
            "Tokens a second and replica",
            "What one replica's price buys.",
            (Query(f"{TOKENS} / {PODS}", WHO),),
            unit="tokens/s",
        ),
        Panel(
            "Requests an hour and replica",
            "Ended ones.",
            (Query(f"3600 * {rate('requests_finished_total')} / {PODS}", WHO),),
        ),
        Panel(
            "Joules a token",
            "Energy of the GPUs over tokens computed.",
            (Query(f"{rate('gpu_energy_joules_total')} / ({TOKENS} > 0)", WHO, may_be_empty=True),),
            unit="joule",
        ),
    ),
)

USE = Row(
    "Use of the device",
    (
        Panel(
            "MFU",
            "Operations that the model needs, of those that the device could do.",
            (Query(f"{rate('estimated_flops_total')} / {gauge('device_peak_flops')}", WHO, may_be_empty=True),),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "MBU",
            "Bytes that the model needs, of those that the device's memory could move.",
            (Query(f"{rate('estimated_bytes_total')} / {gauge('device_peak_bytes')}", WHO, may_be_empty=True),),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Idle",
            "Share of the time in which the device computed nothing.",
            (Query(f"1 - {rate('device_busy_seconds_total')} / {PODS}", WHO),),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Waiting for the host",
            "Share of the time in which the device waited between two steps of a row.",
            (Query(f"{rate('device_gap_seconds_total')} / {PODS}", WHO),),
            unit="percentunit",
        ),
        Panel(
            "SMs and memory of the GPU",
            "Shares of the last second. On GPUs with GPM only.",
            (
                Query(f"avg by ({BY}) (headrace_gpu_sm_activity{{{SERVED}}})", f"{WHO} SM", may_be_empty=True),
                Query(f"avg by ({BY}) (headrace_gpu_dram_activity{{{SERVED}}})", f"{WHO} DRAM", may_be_empty=True),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel("Power", "Of all GPUs.", (Query(gauge("gpu_power_watts"), WHO, may_be_empty=True),), unit="watt"),
    ),
)

WASTE = Row(
    "Computed for nothing, and not computed",
    (
        Panel(
            "Computed again",
            "Share of the tokens that were preempted before.",
            (Query(f"{rate('recomputed_tokens_total')} / ({rate('step_tokens_total')} > 0)", WHO),),
            unit="percentunit",
        ),
        Panel(
            "Computed for nobody",
            "Padding, and tokens for requests that had ended, a second.",
            (
                Query(rate("padded_tokens_total"), f"{WHO} padded"),
                Query(rate("discarded_tokens_total"), f"{WHO} discarded"),
            ),
            unit="tokens/s",
        ),
        Panel(
            "Found in the prefix cache",
            "Share of the prompt tokens that were looked up.",
            (Query(f"{rate('prefix_cache_hits_total')} / ({rate('prefix_cache_queries_total')} > 0)", WHO),),
            unit="percentunit",
            most=1,
        ),
    ),
)

BOARD = Board(
    file="cost",
    title="Headrace / cost and efficiency",
    help="What do a million tokens cost, and what of the devices is not used?",
    rows=(MONEY, USE, WASTE),
    choices=(
        Choice("namespace", "label_values(headrace_ready, namespace)", all=True),
        Choice("name", 'label_values(headrace_ready{namespace=~"$namespace"}, headrace_dev_deployment)', all=True),
    ),
    texts=(("hour_price", "2"),),
)
