"""A revision is what the manifest says of a pod: recorded once, and pods are made from the record for ever."""

from dataclasses import dataclass, field, replace

import pytest
from headrace_operator.decide import manifests, revisions
from headrace_operator.decide.actions import CreatePod, CreateRevision, DeleteRevision
from headrace_operator.decide.plan import plan
from headrace_operator.decide.values import Observed, Revision
from headrace_operator.gate_fields import GateReport
from headrace_operator.service import Batching, InferenceDeployment, Mode, Model, Resources, Rollout, Strategy
from headrace_operator.sources import ClaimSource
from observations import IMAGE, NOW, decided, deployment, pod, recorded, scaling, settled, signals

CURRENT = recorded()


def gated(report: str) -> InferenceDeployment:
    return deployment(model=replace(deployment().model, gate_report=GateReport(report)))


GATED = gated("llama-gate")


def planned(given: InferenceDeployment, observed: Observed, *, image: str = IMAGE, replicas: int = 2) -> list[object]:
    decision = replace(decided(1, signals(1, load=1.0)), replicas=replicas, current=replicas)
    return list(plan(given, image, observed, decision, progress=settled(given), said=None, now=NOW))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(deployment(image="mine:1"), id="the manifest's image"),
        pytest.param(deployment(model=Model(ClaimSource("models", "other"), "bfloat16", "cuda")), id="the model"),
        pytest.param(deployment(batching=Batching(1, 2048, 1024)), id="batching"),
        pytest.param(GATED, id="the report of its gate"),
        pytest.param(deployment(resources=Resources(gpus=2)), id="resources"),
        pytest.param(deployment(drain_timeout=1.0), id="the drain timeout, which the kubelet keeps"),
    ],
)
def test_what_a_pod_is_made_from_makes_a_new_revision(changed: InferenceDeployment) -> None:
    assert revisions.asked(changed) != revisions.asked(deployment())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(deployment(scaling=scaling(min_replicas=5)), id="bounds"),
        pytest.param(deployment(scaling=scaling(mode=Mode.SHADOW)), id="the mode"),
        pytest.param(deployment(rollout=Rollout(Strategy.CANARY)), id="how it is rolled out"),
        pytest.param(deployment(generation=99), id="its generation"),
    ],
)
def test_what_is_not_part_of_a_pod_makes_none(changed: InferenceDeployment) -> None:
    assert revisions.asked(changed) == revisions.asked(deployment())


def test_another_report_makes_another_revision() -> None:
    assert revisions.asked(gated("llama-gate-2")) != revisions.asked(GATED)


def test_a_field_that_a_later_version_adds_makes_no_new_revision() -> None:
    @dataclass(frozen=True, slots=True)
    class LaterResources(Resources):
        zone: str | None = None
        labels: tuple[str, ...] = field(default_factory=tuple)

    later = deployment(resources=LaterResources(gpus=1))
    assert revisions.asked(later) == revisions.asked(deployment())
    assert revisions.asked(deployment(resources=LaterResources(gpus=1, zone="b"))) != revisions.asked(deployment())


def test_a_revision_keeps_its_name_in_every_later_version() -> None:
    """Where this fails, every pod of every user would be replaced at the next upgrade."""
    assert revisions.asked(deployment()) == "229d4330"


def test_the_record_comes_before_the_first_pod() -> None:
    (action,) = planned(deployment(), Observed())
    assert isinstance(action, CreateRevision)
    metadata = action.body["metadata"]
    assert (action.body["apiVersion"], action.body["kind"], action.body["revision"]) == (
        "apps/v1",
        "ControllerRevision",
        1,
    )
    assert metadata["name"] == f"llama-{CURRENT.hash}"
    assert metadata["labels"]["headrace.dev/deployment"] == "llama"
    assert metadata["labels"]["headrace.dev/revision"] == CURRENT.hash
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == ["cr-uid"]
    assert action.body["data"] == manifests.template(deployment(), IMAGE)


def test_an_upgraded_operator_touches_no_pod_and_goes_on_making_the_same_ones() -> None:
    """Another default image, and another way to write a pod: what was recorded is what counts."""
    old_way = replace(CURRENT, spec={"written": "by an older operator", "image": IMAGE})
    kept = Observed((pod(0, revision=CURRENT.hash), pod(1, revision=CURRENT.hash)), (old_way,))
    assert planned(deployment(), kept, image="headrace-server:2") == []
    (created,) = planned(deployment(), kept, image="headrace-server:2", replicas=3)
    assert isinstance(created, CreatePod)
    assert created.body["spec"] == old_way.spec


def test_who_may_release_is_recorded_and_another_key_touches_no_pod() -> None:
    keep = revisions.keep(GATED, IMAGE, Observed(), gate_keys=("OLD",))
    assert keep == [CreateRevision(revisions.body(GATED, IMAGE, Observed(), ("OLD",)))]
    assert "--gate-public-key=OLD" in keep[0].body["data"]["spec"]["containers"][0]["args"]
    known = Observed((), (recorded(GATED),))
    assert revisions.keep(GATED, IMAGE, known, gate_keys=("NEW",)) == []


def test_the_operators_keys_reach_the_record() -> None:
    decision = decided(1, signals(1, load=1.0))
    (action,) = plan(
        GATED, IMAGE, Observed(), decision, progress=settled(GATED), said=decision.reason, now=NOW, gate_keys=("KEY",)
    )
    assert isinstance(action, CreateRevision)
    assert action.body["data"] == manifests.template(GATED, IMAGE, ("KEY",))


def test_numbers_rise_and_a_revision_that_comes_again_is_the_one_on_record() -> None:
    other = deployment(image="mine:1")
    (action,) = planned(other, Observed((), (replace(CURRENT, number=7),)), replicas=0)
    assert isinstance(action, CreateRevision)
    assert action.body["revision"] == 8
    assert planned(deployment(), Observed((), (CURRENT, recorded(other, number=8))), replicas=0) == []


def test_the_newest_three_records_stay_and_those_in_use() -> None:
    old = [Revision(f"{number:08d}", number, f"llama-{number}", f"uid-{number}", {}) for number in range(1, 7)]
    known = (replace(CURRENT, number=0), *old)
    runs = pod(0, revision=old[1].hash)
    actions = revisions.keep(deployment(), IMAGE, Observed((runs,), known), in_use=[old[2].hash])
    assert actions == [DeleteRevision("llama-1", "uid-1")]
