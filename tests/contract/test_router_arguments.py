"""What the operator tells a router, by its pod's arguments and by status, arrives with the same meaning."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace_operator.auth_fields import Auth, SecretFile
from headrace_operator.decide import manifests, routing
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.routing import RouterParts
from headrace_operator.decide.values import Observed, Role
from headrace_operator.routing_fields import Hold, Routing, RoutingMode
from headrace_operator.service import Canary, InferenceDeployment, Rollout, Strategy
from headrace_router import __main__ as router
from headrace_router.arguments import settings
from headrace_router.observe.guidance import guidance
from headrace_router.observe.pods import found
from headrace_router.settings import Settings, Trust
from observations import deployment, recorded

ROUTED = deployment(routing=Routing(RoutingMode.HEADRACE, 2, Hold(7, 90.0)))
SECURE = replace(ROUTED, auth=Auth(api_keys=SecretFile("keys", "keys"), tls="certificate"))


def pod(given: InferenceDeployment) -> dict[str, Any]:
    (body,) = [body for body in routing.bodies(given, RouterParts("image")) if body["kind"] == "Deployment"]
    spec: dict[str, Any] = body["spec"]["template"]["spec"]
    return spec


def parsed(given: InferenceDeployment) -> Settings:
    (container,) = pod(given)["containers"]
    command, *words = container["args"]
    assert [*container["command"], command] == ["headrace", "route"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    router.register(parser)
    return settings(parser.parse_args(words), Path("unused"))


def test_every_argument_arrives() -> None:
    told = parsed(ROUTED)
    (model,) = told.models
    assert model.replicas is not None
    assert (model.replicas.namespace, model.replicas.deployment) == ("default", "llama")
    assert (told.terms.held.requests, told.terms.held.seconds) == (7, 90.0)
    (container,) = pod(ROUTED)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listening = told.listening
    assert ports == {"grpc": listening.grpc_port, "http": listening.http_port, "admin": listening.admin_port}


def test_the_pod_outlives_the_routers_leaving() -> None:
    leaving = parsed(ROUTED).leaving
    assert pod(ROUTED)["terminationGracePeriodSeconds"] > leaving.linger + leaving.patience


def test_a_router_before_replicas_with_tls_speaks_it_on_both_sides() -> None:
    told = parsed(SECURE)
    (container,) = pod(SECURE)["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = {
        volume["name"]: volume["secret"]["secretName"] for volume in pod(SECURE)["volumes"] if "secret" in volume
    }
    assert secrets == {"tls": "certificate"}, "API keys are the replicas' alone"
    folder = Path(mounted["tls"])
    assert told.certificate == (folder / "tls.crt", folder / "tls.key")
    assert [model.trust for model in told.models] == [Trust(folder / "ca.crt", "llama.default.svc")]
    plain = parsed(ROUTED)
    assert (plain.certificate, [model.trust for model in plain.models]) == (None, [None])


def test_the_share_of_a_canary_is_read_as_it_was_written() -> None:
    shared = replace(ROUTED, rollout=Rollout(Strategy.CANARY, Canary(share=0.07)))
    told = routing.guidance(shared, Observed(), Progress(State.TRIAL, "old", "b7a902b8", 0.0))
    read = guidance({"routing": told})
    assert (read.shares, read.mirror_share) == ((("b7a902b8", 0.07),), 0.0)


def test_the_share_of_copies_is_read_as_it_was_written() -> None:
    trial = Progress(State.TRIAL, "old", "b7a902b8", 0.0, is_shadow=True)
    copied = replace(ROUTED, rollout=Rollout(Strategy.SHADOW, Canary(share=0.07)))
    read = guidance({"routing": routing.guidance(copied, Observed(), trial)})
    assert (read.shares, read.mirror_share) == ((), 0.07)


def test_a_shadow_pod_hears_copies_and_is_asked_nothing() -> None:
    given = replace(ROUTED, rollout=Rollout(Strategy.SHADOW))
    status = {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    made = {role: manifests.pod(given, recorded(given), n, role) | {"status": status} for n, role in enumerate(Role)}
    for role, body in made.items():
        body["metadata"]["uid"] = str(role)
    heard = found({body["metadata"]["uid"]: body for body in made.values()})
    assert [one.uid for one in heard.mirrors] == ["shadow"]
    assert sorted(one.uid for one in heard.serving) == ["canary", "replica"]
