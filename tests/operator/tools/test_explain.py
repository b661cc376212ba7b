"""A reader with nothing but the status computes the same number; a record that was changed is told from a true one."""

import argparse
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_operator.decide.conditions import timestamp
from headrace_operator.decide.foresight import next_change
from headrace_operator.decide.history import History
from headrace_operator.decide.replicas import decide, remembered
from headrace_operator.decide.situation import Situation, look
from headrace_operator.decide.status import Tick, status
from headrace_operator.decide.values import PodState
from headrace_operator.service import Scaling
from headrace_operator.tools import commands
from headrace_operator.tools.replay import replay
from hypothesis import given
from hypothesis import strategies as st
from observations import NOW, deployment, observed, scaling, signals

Body = dict[str, Any]


def without_none(found: Any) -> Any:
    """As a merge patch leaves it at the API server: None removes its key."""
    if isinstance(found, dict):
        return {key: without_none(value) for key, value in found.items() if value is not None}
    return [without_none(item) for item in found] if isinstance(found, list) else found


def situation(
    ready: int,
    *others: PodState,
    policy: Scaling | None = None,
    peak: int | None = None,
    peak_ago: float = 0.0,
    **seen: Any,
) -> Situation:
    before = History(
        desired=ready + len(others),
        recommendations=() if peak is None else ((NOW - peak_ago, peak),),
        ready_changed_at=0.0,
    )
    return look(policy or scaling(), observed(ready, *others), signals(ready, **seen), before, NOW)


def written(of: Situation) -> Body:
    """The object as the API server keeps it after one tick."""
    tick = Tick(deployment(), "image:1", observed(of.supply.ready), decide(of), History(), NOW)
    body = {
        "kind": "InferenceDeployment",
        "metadata": {"name": "llama", "namespace": "default"},
        "status": without_none(status(tick, {})),
    }
    found: Body = json.loads(json.dumps(body))
    return found


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`headrace explain -f FILE WORDS`: exit status, standard output, standard error."""

    def run(body: Any, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "object.yaml"
        file.write_text(body if isinstance(body, str) else yaml.safe_dump(body))
        parser = argparse.ArgumentParser()
        commands.explain(parser)
        options = parser.parse_args(["-f", str(file), *words])
        return (int(options.run(options)), *capsys.readouterr())

    return run


def test_a_reader_recomputes_the_number_from_the_status_alone(explain: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = explain(written(situation(4, load=1.9)))
    assert code == 0
    assert "4 -> 8 replicas" in out
    assert "Computed again: 4 -> 8 replicas, LoadRose. The record says the same." in out


seen = st.fixed_dictionaries(
    {
        "load": st.floats(0, 5),
        "waiting": st.integers(0, 200),
        "running": st.integers(0, 200),
        "queue_wait_p95": st.floats(0, 3),
        "typical_wait": st.floats(0, 3),
        "peak": st.none() | st.integers(1, 30),
        "peak_ago": st.floats(0, 400),
    }
)


@given(st.integers(1, 20), seen)
def test_whatever_was_decided_is_computed_again(ready: int, seen: dict[str, Any]) -> None:
    last = written(situation(ready, **seen))["status"]["lastDecision"]
    assert replay(last).differences == ()
    assert replay(last).decision.replicas == last["to"]


def test_every_rule_is_shown_with_before_and_after(explain: Callable[..., tuple[int, str, str]]) -> None:
    body = written(situation(4, load=9.0, policy=scaling(max_replicas=6)))
    (clamp,) = body["status"]["lastDecision"]["clamps"]
    assert (clamp["reason"], clamp["to"]) == ("AtMaximum", 6)
    rows = [line.split() for line in explain(body)[1].splitlines()]
    assert ["AtMaximum", str(clamp["from"]), "6"] in rows


CHANGES: list[tuple[str, Callable[[Body], Any]]] = [
    ("to", lambda last: last.update(to=7)),
    ("from", lambda last: last.update({"from": 3})),
    ("reason", lambda last: last.update(reason="LoadFell")),
    ("proposals", lambda last: last["proposals"][0].update(replicas=9)),
    ("clamps", lambda last: last.update(clamps=[{"reason": "AtMaximum", "from": 9, "to": 8}])),
    ("to", lambda last: last["inputs"]["load"].update(arrivalsPerSecond="1")),
    ("to", lambda last: last["inputs"]["policy"].update(maxReplicas=5)),
]


@pytest.mark.parametrize(("field", "change"), CHANGES)
def test_a_record_that_was_changed_is_told_loudly(
    explain: Callable[..., tuple[int, str, str]], field: str, change: Callable[[Body], Any]
) -> None:
    body = written(situation(4, load=1.9))
    change(body["status"]["lastDecision"])
    code, out, _ = explain(body)
    assert code == 3
    assert "THE RECORD DISAGREES" in out
    assert f"  {field}: recorded" in out


def test_scripts_get_the_same_as_people(explain: Callable[..., tuple[int, str, str]]) -> None:
    body = written(situation(4, load=1.9))
    code, out, _ = explain(body, "-o", "json")
    told = json.loads(out)
    assert (code, told["agrees"], told["computed"]["to"], told["recorded"]) == (
        0,
        True,
        8,
        body["status"]["lastDecision"],
    )
    body["status"]["lastDecision"]["to"] = 7
    code, out, _ = explain(body, "-o", "json")
    assert (code, json.loads(out)["agrees"], len(json.loads(out)["differences"])) == (3, False, 1)


def test_the_last_change_is_explained_on_its_own(explain: Callable[..., tuple[int, str, str]]) -> None:
    change, later = written(situation(4, load=1.9))["status"], written(situation(8, load=0.95))
    later["status"]["lastChange"] = change["lastDecision"]
    assert "8 replicas" in explain(later)[1].splitlines()[0]
    assert "4 -> 8 replicas" in explain(later, "--change")[1].splitlines()[0]


def _edited(body: Body, **status: Any) -> Body:
    return {**deepcopy(body), "status": status}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param("kind: Pod", "not one InferenceDeployment", id="another kind"),
        pytest.param("]", "cannot read", id="no YAML"),
        pytest.param(_edited(written(situation(1))), "not decided", id="no decision yet"),
        pytest.param(
            _edited(written(situation(1)), lastDecision={"inputs": {"readyPods": 1}, "at": timestamp(NOW)}),
            "version",
            id="a record of another version",
        ),
    ],
)
def test_what_cannot_be_explained_is_one_clear_line(
    explain: Callable[..., tuple[int, str, str]], body: Any, says: str
) -> None:
    code, out, err = explain(body)
    assert (code, out) == (1, "")
    assert says in err
    assert err.startswith("headrace: ")
    assert err.count("\n") == 1 or "cannot read" in err


def test_the_next_change_is_when_the_window_lets_go() -> None:
    held = decide(situation(4, load=0.2, peak=4, peak_ago=100.0))
    assert held.replicas == held.current == 4
    found = next_change(held)
    assert found is not None
    assert found.decision.replicas == 1
    assert 200 <= found.after <= 202
    assert decide(replace(held.situation, peak_ago=held.situation.peak_ago + found.after - 5)).replicas == 4


@given(st.floats(0, 290), st.floats(0.05, 0.6), st.integers(4, 20))
def test_the_foretold_change_happens_when_nothing_changes(peak_ago: float, load: float, ready: int) -> None:
    """The operator's own ticks, with its own memory, come to the foretold number at the foretold time."""
    history = History(desired=ready, recommendations=((NOW - peak_ago, ready),), ready_changed_at=0.0)
    foretold, now = None, NOW
    while now < NOW + 400:
        decision = decide(look(scaling(), observed(ready), signals(ready, load=load), history, now))
        history = remembered(history, decision, now)
        foretold = foretold or next_change(decision)
        if decision.replicas != ready:
            break
        now += 2.0
    assert foretold is not None
    assert decision.replicas == foretold.decision.replicas
    assert now == pytest.approx(NOW + foretold.after, abs=3.0)


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(situation(4, load=1.0), id="steady"),
        pytest.param(situation(4, load=1.9), id="pods still follow the decision"),
        pytest.param(situation(1, load=0.1), id="at the minimum"),
    ],
)
def test_where_nothing_follows_nothing_is_foretold(of: Situation) -> None:
    assert next_change(decide(of)) is None


def test_status_tells_what_explain_foretells(explain: Callable[..., tuple[int, str, str]]) -> None:
    body = written(situation(4, load=0.2, peak=4, peak_ago=100.0))
    foretold = body["status"]["lastDecision"]["next"]
    assert foretold == {"at": timestamp(NOW + 201), "to": 1, "reason": "LoadFell"}
    assert json.loads(explain(body, "-o", "json")[1])["next"] == foretold
    assert "next" not in written(situation(4, load=1.0))["status"]["lastDecision"]


def test_the_last_ten_changes_are_listed(explain: Callable[..., tuple[int, str, str]]) -> None:
    body = written(situation(4, load=1.9))
    (entry,) = body["status"]["decisions"]
    body["status"]["decisions"] = [{**entry, "message": f"change {number}"} for number in range(10)]
    lines = explain(body)[1].splitlines()
    assert [line.split()[-1] for line in lines[-10:]] == [str(number) for number in range(10)]
