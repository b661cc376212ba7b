"""When each alert fires and when it does not, as series that promtool plays to Prometheus' own rule engine.

Values are promtool's: `3+0x40` is 3 and 40 times the same again, `0+1x9` counts from 0 to 9. There is one every 30 s,
or every ten minutes where a story takes days.
"""

from dataclasses import dataclass

CHAT = 'namespace="team-a", name="chat", instance="operator-0"'
SERVED = 'namespace="team-a", headrace_dev_deployment="chat", pod="chat-0"'
ROUTED = 'namespace="team-a", headrace_dev_router="chat", pod="chat-router-0"'
SEVERAL = 'namespace="gateways", headrace_dev_router="all-models", pod="all-models-0"'  # routers of several models
OPERATOR = 'instance="operator-0"'
DAYS = "10m"  # between two values of a story that takes days


@dataclass(frozen=True, slots=True)
class Story:
    """Some series, and what is true after some minutes."""

    what: str
    minutes: int
    series: dict[str, str]
    fires: bool
    step: str = "30s"  # between two values


def fires(what: str, minutes: int, series: dict[str, str], step: str = "30s") -> Story:
    return Story(what, minutes, series, fires=True, step=step)


def quiet(what: str, minutes: int, series: dict[str, str], step: str = "30s") -> Story:
    return Story(what, minutes, series, fires=False, step=step)


def own(name: str, *labels: str) -> str:
    """A series of the operator about team-a/chat."""
    return f"headrace_operator_{name}{{{', '.join((CHAT, *labels))}}}"


def wait(values: str) -> dict[str, str]:
    """Queue wait p95 in seconds, against a target of half a second."""
    return {own("queue_wait_p95_seconds"): values, own("queue_wait_target_seconds"): "0.5+0x12000"}


def still(**values: float) -> dict[str, str]:
    """Series of team-a/chat that stay as they are for two hours."""
    return {own(name): f"{value}+0x240" for name, value in values.items()}


def intervals(looks_within_2_s: int, looks_within_30_s: int) -> dict[str, str]:
    """Looks in 30 s, by the time since the look before."""
    name = "headrace_operator_look_interval_seconds_bucket"
    slow = looks_within_2_s + looks_within_30_s
    return {
        f'{name}{{{OPERATOR}, le="2"}}': f"0+{looks_within_2_s}x80",
        f'{name}{{{OPERATOR}, le="15"}}': f"0+{looks_within_2_s}x80",
        f'{name}{{{OPERATOR}, le="30"}}': f"0+{slow}x80",
        f'{name}{{{OPERATOR}, le="+Inf"}}': f"0+{slow}x80",
    }


def calls(good: int, bad: int, code: str) -> dict[str, str]:
    """Calls to the API server in 30 s."""
    name = f'headrace_operator_api_requests_total{{{OPERATOR}, verb="patch", resource="pods", code='
    return {f'{name}"200"}}': f"0+{good}x80", f'{name}"{code}"}}': f"0+{bad}x80"}


def requests(received: int, refused: int, reason: str) -> dict[str, str]:
    """Requests in 30 s."""
    return {
        f"headrace_requests_received_total{{{SERVED}}}": f"0+{received}x80",
        f'headrace_requests_refused_total{{{SERVED}, reason="{reason}"}}': f"0+{refused}x80",
    }


def routed(reasons: dict[str, int]) -> dict[str, str]:
    """Requests in 30 s, by what became of them."""
    name = f'headrace_router_requests_total{{{ROUTED}, door="http", reason='
    return {f'{name}"{reason}"}}': f"0+{number}x80" for reason, number in reasons.items()}


def held(oldest: str, start: float, *, routers: str = ROUTED, model: str = "") -> dict[str, str]:
    """Seconds for which the oldest request held for team-a/chat has waited, and that a start usually takes."""
    labels = f'{routers}, model="{model}", deployment="team-a/chat"'
    return {f"headrace_router_model_oldest_held_seconds{{{labels}}}": oldest, own("start_seconds"): f"{start}+0x240"}


def ejections(values: str) -> dict[str, str]:
    return {f"headrace_router_ejections_total{{{ROUTED}}}": values}


def watch(repairs: str, heard: str) -> dict[str, str]:
    """Changes that lists showed and the watch of pods did not; when that watch was heard last."""
    labels = f'{{{OPERATOR}, resource="pods"}}'
    return {
        f"headrace_operator_list_repairs_total{labels}": repairs,
        f"headrace_operator_watch_last_event_timestamp_seconds{labels}": heard,
    }


def ends(name: str, labels: str, values: str = "", *, days: int = 0, who: str = SERVED) -> dict[str, str]:
    """When something ends; these stories begin at 0 seconds since 1970."""
    return {f"headrace_{name}_timestamp_seconds{{{who}, {labels}}}": values or f"{days * 86400}+0x300"}


def leaders(**releases: int) -> dict[str, str]:
    """Of releases in one namespace: does one of two operators lead?"""
    name = "headrace_operator_is_leader"
    return {
        f'{name}{{namespace="ops", job="ops/{release}", pod="{release}-{pod}"}}': f"{pod * leads}+0x60"
        for release, leads in releases.items()
        for pod in (0, 1)
    }


def state(name: str, labels: str, *, values: str = "1+0x240") -> dict[str, str]:
    return {own(name, labels): values}


STORIES: dict[str, tuple[Story, ...]] = {
    "HeadraceQueueWaitFastBurn": (
        fires("a fifth of an hour, and now", 62, wait("0.1+0x96 0.9+0x60")),
        fires("a tenth of six hours, again and again", 380, wait(" ".join(["0.1+0x17 0.9+0x1"] * 20)), "1m"),
        quiet("it was bad, and is over", 90, wait("0.1+0x80 0.9+0x20 0.1+0x100")),
        quiet("a moment of it", 62, wait("0.1+0x116 0.9+0x10")),
        quiet("exactly at the target", 62, wait("0.5+0x240")),
        quiet("nobody waited: nothing is known, and nothing missed", 62, wait("_x240")),
    ),
    "HeadraceQueueWaitSlowBurn": (
        fires("4 % of a day", 1460, wait("0.1+0x138 0.9+0x5 0.1+0x3"), DAYS),
        fires("20 minutes a day, for three days", 4360, wait(" ".join(["0.1+0x141 0.9+0x1"] * 3) + " 0.1+0x6"), DAYS),
        quiet("ten minutes of a day", 1460, wait("0.1+0x140 0.9 0.1+0x6"), DAYS),
    ),
    "HeadraceTooFewReady": (
        fires("one of two, for long", 12, still(ready_replicas=1, min_replicas=2)),
        quiet("for a few minutes", 8, still(ready_replicas=1, min_replicas=2)),
        quiet("enough", 30, still(ready_replicas=2, min_replicas=2)),
        quiet("a minimum of none", 30, still(ready_replicas=0, min_replicas=0)),
    ),
    "HeadraceStartOverdue": (
        fires("20 minutes where 2 are usual", 3, still(oldest_start_seconds=1200, start_seconds=120)),
        quiet("20 minutes where 15 are usual", 30, still(oldest_start_seconds=1200, start_seconds=900)),
        quiet("5 minutes where 1 is usual", 30, still(oldest_start_seconds=300, start_seconds=60)),
    ),
    "HeadracePodsFailing": (
        fires("a pod crashes", 6, state("pods", 'role="replica", phase="CrashLooping"')),
        fires("a standby's model is refused", 6, state("pods", 'role="standby", phase="ModelRefused"')),
        quiet("pods load", 30, state("pods", 'role="replica", phase="Loading"')),
        quiet("it recovers", 7, state("pods", 'role="replica", phase="CrashLooping"', values="1+0x6 stale _x20")),
    ),
    "HeadraceGPUInsufficient": (
        fires("no room", 12, state("condition", 'type="GPUCapacity"', values="0+0x60") | still(desired_replicas=3)),
        quiet("room", 30, state("condition", 'type="GPUCapacity"')),
        quiet("a while ago", 12, state("condition", 'type="GPUCapacity"', values="0+0x15 1+0x60")),
    ),
    "HeadraceAtMaxReplicas": (
        fires("12 wanted of 8", 17, still(wanted_replicas=12, max_replicas=8)),
        quiet("exactly the maximum", 60, still(wanted_replicas=8, max_replicas=8)),
        quiet("for ten minutes", 10, still(wanted_replicas=12, max_replicas=8)),
    ),
    "HeadraceScaleFlapping": (
        fires("six times an hour", 60, {own("reversals_total"): "0+0x20 1+0x14 2+0x14 3+0x14 4+0x14 5+0x14 6+0x40"}),
        quiet("three times an hour", 60, {own("reversals_total"): "0+0x40 1+0x20 2+0x20 3+0x60"}),
    ),
    "HeadraceMetricsMissing": (
        fires("one of three is silent", 7, still(asked_pods=3, answered_pods=2)),
        quiet("all answer", 30, still(asked_pods=3, answered_pods=3)),
        quiet("none is ready", 30, still(asked_pods=0, answered_pods=0)),
    ),
    "HeadraceFallbackActive": (
        fires("for minutes", 3, state("reason", 'reason="MetricsFallback"') | still(silent_seconds=240)),
        quiet("metrics are missing, and held", 30, state("reason", 'reason="MetricsMissing"')),
    ),
    "HeadraceDrainTimeouts": (
        fires("one pod", 10, {own("drain_timeouts_total"): "0+0x10 1+0x60"}),
        quiet("long ago", 60, {own("drain_timeouts_total"): "0+0x5 1+0x200"}),
        quiet("none", 60, {own("drain_timeouts_total"): "0+0x200"}),
    ),
    "HeadraceRolloutStalled": (
        fires("it stands", 3, state("rollout", 'state="Promoting", reason="ProgressDeadlineExceeded"')),
        quiet("it goes on", 30, state("rollout", 'state="Promoting", reason="NotTried"')),
    ),
    "HeadraceCanaryRolledBack": (
        fires("worse answers", 2, state("rollout", 'state="RolledBack", reason="QualityWorse"')),
        quiet("on trial", 30, state("rollout", 'state="Trial", reason="EvidenceMissing"')),
    ),
    "HeadraceScalingConflict": (
        fires("for long", 17, state("condition", 'type="ScalingConflict"')),
        quiet("undisputed", 60, state("condition", 'type="ScalingConflict"', values="0+0x240")),
    ),
    "HeadracePausedForLong": (
        fires("paused since the day before", 1450, state("mode", 'mode="Paused"'), DAYS),
        quiet("paused for a maintenance", 240, state("mode", 'mode="Paused"'), DAYS),
        quiet("automatic", 1450, state("mode", 'mode="Auto"'), DAYS),
    ),
    "HeadraceRequestsRefused": (
        fires("a tenth", 12, requests(90, 10, "overloaded")),
        quiet("a hundredth", 12, requests(99, 1, "overloaded")),
        quiet("what clients did wrong is not ours", 12, requests(50, 50, "invalid")),
        quiet("nobody asks", 12, requests(0, 0, "overloaded")),
    ),
    "HeadraceReloadRefused": (
        fires("a broken certificate", 12, {f'headrace_reload_ok{{{SERVED}, file="tls"}}': "0+0x60"}),
        quiet("a good one", 12, {f'headrace_reload_ok{{{SERVED}, file="tls"}}': "1+0x60"}),
        fires("a router's", 12, {f'headrace_router_reload_ok{{{ROUTED}, file="certificate", model=""}}': "0+0x60"}),
        quiet("a router's good one", 12, {f'headrace_router_reload_ok{{{ROUTED}, file="certificate"}}': "1+0x60"}),
    ),
    "HeadraceCertificateExpiring": (
        fires("in three days", 70, ends("certificate_expires", 'file="tls"', days=3)),
        quiet("in a month", 70, ends("certificate_expires", 'file="tls"', days=30)),
        fires("a router's", 70, ends("router_certificate_expires", 'file="certificate"', days=3, who=SEVERAL)),
        quiet(
            "a router's, in a month", 70, ends("router_certificate_expires", 'file="certificate"', days=30, who=SEVERAL)
        ),
        quiet("it was renewed", 70, ends("certificate_expires", 'file="tls"', "259200+0x60 2592000+0x100")),
    ),
    "HeadraceRevocationListOld": (
        fires("an hour over", 130, ends("crl_expires", 'authority="CN=ours"', "3600+0x300")),
        quiet("a day left", 130, ends("crl_expires", 'authority="CN=ours"', days=1)),
    ),
    "HeadraceRouterDown": (
        fires("none is ready", 4, state("condition", 'type="RoutingReady"', values="0+0x60")),
        quiet("one is", 30, state("condition", 'type="RoutingReady"')),
        quiet("they start", 2, state("condition", 'type="RoutingReady"', values="0+0x3 1+0x60")),
        quiet("nobody asked for routers", 30, state("condition", 'type="Ready"', values="0+0x60")),
    ),
    "HeadraceHeldRequestsOld": (
        fires("for ten minutes where two are usual", 22, held("0+30x80", 120)),
        fires("by routers of several models", 22, held("0+30x80", 120, routers=SEVERAL, model="small")),
        quiet("by those, for no longer than a start", 9, held("0+30x80", 300, routers=SEVERAL, model="small")),
        quiet("for four minutes where five are usual", 9, held("0+30x80", 300)),
        quiet("half a minute where ten seconds are usual", 30, held("30+0x80", 10)),
        quiet("a replica came", 30, held("0+30x20 0+0x80", 120)),
    ),
    "HeadraceHeldRequestsRefused": (
        fires("more than routers hold", 12, routed({"LeastWait": 50, "TooManyHeld": 50})),
        fires("all of them", 12, routed({"HeldTooLong": 10})),
        quiet("one in a hundred", 12, routed({"Affinity": 99, "HeldTooLong": 1})),
        quiet("a router that goes sends clients elsewhere", 12, routed({"LeastWait": 50, "Draining": 50})),
    ),
    "HeadraceReplicasEjected": (
        fires("one a minute", 20, ejections("0+0.5x60")),
        quiet("one, when it ended", 20, ejections("0+0x10 1+0x60")),
        quiet("long ago", 60, ejections("0+1x10 10+0x200")),
    ),
    "HeadraceOperatorDown": (
        fires("nothing is read", 6, {}),
        fires("it was there", 20, {f'headrace_operator_build_info{{{OPERATOR}, version="0.1.0"}}': "1+0x10"}),
        quiet("it is there", 20, {f'headrace_operator_build_info{{{OPERATOR}, version="0.1.0"}}': "1+0x60"}),
    ),
    "HeadraceNoLeader": (
        fires("two stand by", 2, {f'headrace_operator_is_leader{{instance="{one}"}}': "0+0x60" for one in "ab"}),
        fires("none of a second release, while one of the first does", 2, leaders(prod=0, headrace=1)),
        quiet("one leads", 20, {f'headrace_operator_is_leader{{instance="{one}"}}': f"{one}+0x60" for one in "01"}),
        quiet("one of each release leads", 20, leaders(prod=1, headrace=1)),
    ),
    "HeadraceOperatorSlow": (
        fires("every tenth look is late", 20, intervals(90, 10)),
        quiet("as it should be", 20, intervals(100, 0)),
    ),
    "HeadraceDecisionsStale": (
        fires("minutes ago", 10, {own("last_decision_timestamp_seconds"): "0+0x40"}),
        quiet("just now", 10, {own("last_decision_timestamp_seconds"): "0+30x40"}),
    ),
    "HeadraceReconcileErrors": (
        fires("one a minute", 12, {own("reconcile_failures_total"): "0+1x60"}),
        quiet("two, and it went on", 12, {own("reconcile_failures_total"): "0 1 2+0x60"}),
    ),
    "HeadraceWatchStalled": (
        fires("lists know more", 20, watch("0+1x60", "0+0x60")),
        quiet("a quiet cluster", 20, watch("0+0x60", "0+0x60")),
        quiet("a list was faster than a watch that talks", 20, watch("0+1x60", "0+30x60")),
    ),
    "HeadraceApiErrors": (
        fires("a fifth is throttled", 20, calls(8, 2, "429")),
        fires("a fifth has no answer", 20, calls(8, 2, "0")),
        quiet("one in a hundred", 20, calls(99, 1, "503")),
        quiet("conflicts are answers", 20, calls(5, 5, "409")),
    ),
}
