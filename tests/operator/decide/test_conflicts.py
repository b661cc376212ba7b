"""Who else has a say: reported with names and the remedy, and nothing is claimed that was not looked at."""

import pytest
from headrace_operator.decide.conditions import as_status
from headrace_operator.decide.conflicts import SHOWN, Autoscaler, Claims, Edit, condition, news
from headrace_operator.decide.reasons import Announcement, Health
from headrace_operator.service import Mode
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW

HPA = Autoscaler("HorizontalPodAutoscaler", "chat-hpa")
KEDA = Autoscaler("ScaledObject", "chat-keda")
EDIT = Edit("pod chat-5f3a1-0", "spec.containers[server].image", "kubectl-set")
SCALED = Claims(replicas=5, replicas_by=("kubectl",))
TO_EXTERNAL = "set spec.autoscaling.mode to External"


@pytest.mark.parametrize(
    ("mode", "claims", "reason", "says"),
    [
        pytest.param(Mode.AUTO, Claims(), None, ["nobody else"], id="nobody"),
        pytest.param(
            Mode.AUTO, SCALED, Health.FOREIGN_REPLICAS, ["kubectl", "to 5", "Auto", TO_EXTERNAL], id="a person scales"
        ),
        pytest.param(Mode.PAUSED, SCALED, Health.FOREIGN_REPLICAS, ["Paused"], id="a person scales what is paused"),
        pytest.param(Mode.EXTERNAL, SCALED, None, ["nobody else"], id="a person scales what is External"),
        pytest.param(
            Mode.AUTO,
            Claims(replicas=5),
            Health.FOREIGN_REPLICAS,
            ["scale subresource"],
            id="through /scale, where the API server notes nobody",
        ),
        pytest.param(
            Mode.AUTO,
            Claims(autoscalers=(HPA,)),
            Health.FOREIGN_AUTOSCALER,
            ["HorizontalPodAutoscaler chat-hpa", "delete it", TO_EXTERNAL],
            id="an HPA targets it",
        ),
        pytest.param(Mode.EXTERNAL, Claims(autoscalers=(HPA,)), None, ["nobody else"], id="one HPA drives External"),
        pytest.param(
            Mode.EXTERNAL,
            Claims(autoscalers=(HPA, KEDA)),
            Health.FOREIGN_AUTOSCALER,
            ["chat-hpa", "ScaledObject chat-keda", "keep one"],
            id="two drive External",
        ),
        pytest.param(
            Mode.AUTO,
            Claims(edits=(EDIT,)),
            Health.FOREIGN_EDIT,
            ["kubectl-set", "spec.containers[server].image", "pod chat-5f3a1-0", "manifest"],
            id="a hand on a pod",
        ),
        pytest.param(
            Mode.AUTO,
            Claims(replicas=5, replicas_by=("kubectl",), autoscalers=(HPA,), edits=(EDIT,)),
            Health.FOREIGN_AUTOSCALER,
            ["chat-hpa", "to 5", "kubectl-set"],
            id="all at once, the loudest gives the reason",
        ),
    ],
)
def test_a_conflict_names_who_and_what_to_do(
    mode: Mode, claims: Claims, reason: Health | None, says: list[str]
) -> None:
    found = condition(mode, claims)
    assert (found.status, found.reason) == ((True, reason) if reason else (False, Health.UNDISPUTED))
    for words in says:
        assert words in found.message


def test_what_could_not_be_listed_is_unknown() -> None:
    found = condition(Mode.AUTO, Claims(autoscalers_unknown="403: forbidden"))
    assert (found.status, found.reason) == (None, Health.AUTOSCALERS_UNKNOWN)
    assert "403: forbidden" in found.message


def test_a_conflict_is_told_although_not_everything_could_be_looked_at() -> None:
    found = condition(Mode.AUTO, Claims(replicas=5, replicas_by=("kubectl",), autoscalers_unknown="403: forbidden"))
    assert (found.status, found.reason) == (True, Health.FOREIGN_REPLICAS)


@given(st.sampled_from(Mode), st.integers(SHOWN + 1, 500))
def test_many_edits_are_counted_not_listed(mode: Mode, count: int) -> None:
    message = condition(mode, Claims(edits=(EDIT,) * count)).message
    assert message.count("kubectl-set") == SHOWN
    assert f"{count - SHOWN} more" in message
    assert len(message) < 1024


def test_a_conflict_is_announced_once() -> None:
    found = condition(Mode.AUTO, SCALED)
    (said,) = news(found, [])
    assert (said.reason, said.is_warning) == (Announcement.SCALING_CONFLICT, True)
    assert news(found, as_status([found], [], 1, NOW)) == []


def test_another_conflict_and_the_same_one_later_are_news() -> None:
    replicas, autoscaler = condition(Mode.AUTO, SCALED), condition(Mode.AUTO, Claims(autoscalers=(HPA,)))
    none = condition(Mode.AUTO, Claims())
    assert news(autoscaler, as_status([replicas], [], 1, NOW))
    assert news(replicas, as_status([none], [], 1, NOW))
    assert news(none, as_status([replicas], [], 1, NOW)) == []
