"""What the operator renders into a pod, the server's own command line accepts, number for number."""

import argparse
from typing import Any

import headrace_server.__main__ as server
from headrace_operator.decide import manifests
from headrace_operator.service import Batching, InferenceDeployment, Model, Resources, Scaling
from headrace_operator.sources import ClaimSource

DEPLOYMENT = InferenceDeployment(
    namespace="default",
    name="chat",
    uid="u",
    generation=1,
    model=Model(source=ClaimSource("models", "llama/8b"), dtype="bfloat16", device="cuda"),
    resources=Resources(gpus=1),
    scaling=Scaling(1, 4, 0.5, 0.7, 300.0),
    batching=Batching(max_running=7, max_tokens_per_step=300, max_waiting=11),
    drain_timeout=90.0,
)


def rendered() -> dict[str, Any]:
    container: dict[str, Any] = manifests.pod_spec(DEPLOYMENT, "headrace-server:1")["containers"][0]
    return container


def parsed() -> argparse.Namespace:
    container = rendered()
    assert container["command"] == ["headrace"]
    assert container["args"][0] == "serve"
    parser = argparse.ArgumentParser(exit_on_error=False)
    server.register(parser)
    return parser.parse_args(container["args"][1:])


def test_every_argument_arrives() -> None:
    options = parsed()
    assert str(options.model) == "/models/llama/8b"
    assert (options.name, options.device, options.dtype) == ("chat", "cuda", "bfloat16")
    assert (options.max_running, options.max_tokens_per_step, options.max_waiting) == (7, 300, 11)
    assert options.drain_timeout == 90.0


def test_the_ports_are_those_of_container_service_and_probes() -> None:
    options, container = parsed(), rendered()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": options.grpc_port, "http": options.http_port}
    service = manifests.service(DEPLOYMENT)["spec"]["ports"]
    assert {port["targetPort"] for port in service} == set(ports)
    assert {port["name"]: port["port"] for port in service} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"


def test_the_pod_outlives_the_servers_drain() -> None:
    spec = manifests.pod_spec(DEPLOYMENT, "headrace-server:1")
    assert spec["terminationGracePeriodSeconds"] > parsed().drain_timeout


def test_the_pod_says_where_a_refusal_goes() -> None:
    assert {"name": "HEADRACE_TERMINATION_LOG", "value": "/dev/termination-log"} in rendered()["env"]
