"""A rollout that requires the release gate's report: the model that passed is served, and nothing else is."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import LocalCluster
from demo import story
from demo.users import Habit, converse_during
from deployments import Body, condition, manifest, operator_process, pods, status, wait_ready
from gate_reports import key_pair, line, passed

pytestmark = pytest.mark.e2e
NAME = "gated"
SHORT = Habit(story.PROMPTS, max_new_tokens=16)
OLD, NEW = (story.MODELS / name for name in ("scripture-5m", "scripture-1m"))
AS_SERVED = ("--device=cpu", "--dtype=float32", "--max-running=2")  # what `manifest` says


@pytest.fixture
def key(cluster: LocalCluster, tmp_path: Path) -> Iterator[Path]:
    """Private, of who may release; the operator knows the public one."""
    private, public = key_pair(tmp_path, "release")
    where = ("headrace", str(story.CHART), "--namespace", story.RELEASE_NAMESPACE, "--wait", "--timeout", "300s")
    cluster.helm("upgrade", *where, "--reset-values", "--set", f"gatePublicKeys={{{line(public)}}}")
    told = f"--gate-public-key={line(public)}"
    cluster.wait("who knows the key leads", lambda: told in operator_process(cluster).info["cmdline"])
    yield private
    cluster.helm("upgrade", *where, "--reset-values")


@pytest.fixture
def gone(cluster: LocalCluster) -> Iterator[None]:
    yield
    cluster.kubectl("delete", "infdep", NAME, "--ignore-not-found")
    cluster.kubectl("delete", "configmap", *(f"{model.name}-gate" for model in (OLD, NEW)), "--ignore-not-found")
    cluster.wait("its pods are gone", lambda: not pods(cluster, NAME))


def gated(model: str) -> Body:
    """Two replicas of a model that needs the report of the ConfigMap MODEL-gate."""
    targets = {"queueWaitP95": "60s"}
    body = manifest(NAME, path=model, autoscaling={"minReplicas": 2, "maxReplicas": 2, "targets": targets})
    body["spec"]["model"]["gateReport"] = {"configMapName": f"{model}-gate"}
    return body


def report(model: str, text: str) -> Body:
    metadata = {"name": f"{model}-gate", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"report.json": text}}


def wait_refused(cluster: LocalCluster, why: str) -> None:
    def said() -> bool:
        now = condition(cluster, NAME, "ModelValid")
        return (now["status"], now["reason"]) == ("False", "ModelRefused") and why in now["message"]

    cluster.wait(f"refused: {why}", said)


@pytest.mark.usefixtures("gone")
def test_a_model_without_its_report_replaces_nobody_and_rolls_out_once_it_has_one(
    cluster: LocalCluster, key: Path
) -> None:
    cluster.apply(report(OLD.name, passed(OLD, key, *AS_SERVED)), gated(OLD.name))
    wait_ready(cluster, NAME, 2)
    stable = status(cluster, NAME)["rollout"]["stableRevision"]
    before = {pod["metadata"]["uid"] for pod in pods(cluster, NAME)}

    def edit() -> None:
        cluster.apply(gated(NEW.name))
        wait_refused(cluster, "/report.json: No such file or directory")
        cluster.apply(report(NEW.name, passed(OLD, key, *AS_SERVED)))
        wait_refused(cluster, "it is about another model: sha256:")
        cluster.apply(report(NEW.name, passed(NEW, key, *AS_SERVED[:2], "--max-running=64")))
        wait_refused(cluster, "it was measured with --max-running=64, and is served with --max-running=2")
        assert "is ModelRefused: --gate-report=" in condition(cluster, NAME, "Progressing")["message"]
        assert before < {pod["metadata"]["uid"] for pod in pods(cluster, NAME)}  # and one that is refused
        assert status(cluster, NAME)["rollout"]["stableRevision"] == stable

        cluster.apply(report(NEW.name, passed(NEW, key, *AS_SERVED)))
        cluster.wait(
            "the model that passed serves",
            lambda: condition(cluster, NAME, "Progressing")["reason"] == "RolloutComplete",
        )

    answers = asyncio.run(converse_during(story.doors(cluster, NAME), 4, edit, SHORT))
    assert answers.sent > 0
    assert dict(answers.failures) == {}
    wait_ready(cluster, NAME, 2)
    assert status(cluster, NAME)["rollout"]["stableRevision"] != stable
    assert condition(cluster, NAME, "ModelValid")["status"] == "True"


@pytest.mark.usefixtures("gone", "key")
def test_a_first_rollout_serves_nothing_that_nobody_has_signed_for(cluster: LocalCluster) -> None:
    cluster.apply(report(NEW.name, passed(NEW, None, *AS_SERVED)), gated(NEW.name))
    wait_refused(cluster, "it was not signed by the owner of a key of --gate-public-key")
    assert condition(cluster, NAME, "Ready")["reason"] == "ModelRefused"
