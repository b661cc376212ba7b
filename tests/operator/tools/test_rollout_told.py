"""`headrace status` and `headrace explain` tell of a rollout that goes on or was taken back, and of none that ended."""

from dataclasses import replace
from typing import Any

import pytest
from headrace_operator.decide import revisions
from headrace_operator.decide.history import History
from headrace_operator.decide.reasons import Verdict
from headrace_operator.decide.replicas import decide
from headrace_operator.decide.rollouts import Progress, State
from headrace_operator.decide.situation import look
from headrace_operator.decide.status import Tick, status
from headrace_operator.tools.explain import explained
from headrace_operator.tools.status import one
from observations import IMAGE, NOW, deployment, observed, recorded, scaling, signals

GIVEN = deployment()
NOTHING = Progress(State.BASELINE, "new", revisions.asked(GIVEN), NOW)
TRIAL = Progress(
    State.TRIAL, "old", revisions.asked(GIVEN), NOW, Verdict.EVIDENCE_MISSING, "3 requests have ended", is_shadow=True
)
BACK = Progress(
    State.ROLLED_BACK, "old", TRIAL.updated, NOW, Verdict.SHADOW_FAILED, "llama-1 is CrashLooping", is_shadow=True
)


def body(progress: Progress) -> dict[str, Any]:
    """As the API server keeps it."""
    seen, policy = replace(observed(1), revisions=(replace(recorded(), hash="old"),)), scaling()
    decision = decide(look(policy, seen, signals(1, load=1.0), History(desired=1), NOW))
    told = status(Tick(GIVEN, IMAGE, seen, decision, History(), NOW, progress=progress), {})
    about = {"namespace": "default", "name": "llama"}
    return {"metadata": about, "spec": {"autoscaling": {}}, "status": told}


@pytest.mark.parametrize(
    ("progress", "in_status", "in_explain"),
    [
        pytest.param(TRIAL, ["ShadowTrial", "3 requests have ended"], ["Trial by strategy Shadow"], id="a trial"),
        pytest.param(BACK, ["ShadowRolledBack", "CrashLooping"], ["RolledBack by strategy Shadow"], id="taken back"),
    ],
)
def test_what_is_on_trial_is_told(progress: Progress, in_status: list[str], in_explain: list[str]) -> None:
    told, why = one(body(progress), [], "table", NOW), explained(body(progress), NOW)
    assert all(words in told for words in in_status)
    assert all(words in why for words in [*in_explain, progress.updated, str(progress.verdict), progress.message])


def test_what_ended_is_not() -> None:
    assert "RolloutComplete" not in one(body(NOTHING), [], "table", NOW)
    assert "Rollout" not in explained(body(NOTHING), NOW)
