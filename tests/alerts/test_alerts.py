"""Every alert fires when it should and only then, says what it means with numbers, and has a runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_stories import STORIES, Story
from promtool import promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "headrace" / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
SEVERITIES = {"critical", "warning", "info"}  # wakes somebody; a ticket; to be known
RULE_LIST: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULE_LIST if "alert" in rule}


def written(alert: str, story: Story) -> dict[str, Any]:
    """As promtool reads it."""
    firing = f'count by (alertname) (ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if story.fires else []
    return {
        "name": f"{alert}: {story.what}",
        "interval": story.step,
        "input_series": [{"series": name, "values": values} for name, values in story.series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{story.minutes}m", "exp_samples": expected}],
    }


def test_the_rules_are_valid() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_stories_in_which_it_fires_and_in_which_it_does_not() -> None:
    assert set(STORIES) == set(ALERTS)
    for alert, stories in STORIES.items():
        assert {story.fires for story in stories} == {True, False}, alert


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_it_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    tests = tmp_path / "stories.yaml"
    for step in {story.step for story in STORIES[alert]}:
        stories = [written(alert, story) for story in STORIES[alert] if story.step == step]
        tests.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": step, "tests": stories}))
        played = promtool("test", "rules", str(tests))
        assert played.returncode == 0, played.stdout + played.stderr


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_it_says_what_it_means(alert: str) -> None:
    rule = ALERTS[alert]
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in SEVERITIES
    assert re.search(r"\d|\$value|\$labels", notes["description"]), "a description has numbers"
    assert notes["runbook_url"].rsplit("/", 1)[-1] == alert
    assert (RUNBOOKS / f"{alert}.md").is_file()
    if "by (namespace" in rule["expr"]:
        assert "$labels.namespace" in notes["summary"], "a summary names whom it is about"


TEXTS = {
    "HeadraceTooFewReady": (
        "team-a/chat has fewer ready replicas than minReplicas",
        "1 replicas have been ready for 10 minutes, fewer than spec.autoscaling.minReplicas.",
    ),
    "HeadraceGPUInsufficient": (
        "team-a/chat gets no more GPUs",
        "For 10 minutes the scheduler, a quota or a GPU budget has refused pods. 3 replicas are wanted.",
    ),
    "HeadraceRequestsRefused": (
        "team-a/chat refuses requests",
        "10% of the requests of the last 5 minutes were refused for want of room.",
    ),
    "HeadraceFallbackActive": (
        "team-a/chat is scaled blindly, to metricsFallback",
        "No ready pod has answered for longer than metricsHold: 4m 0s.",
    ),
}


@pytest.mark.parametrize("alert", sorted(TEXTS))
def test_its_text_is_filled_in(alert: str, tmp_path: Path) -> None:
    """In full for some: the words, and numbers that templates ask Prometheus for."""
    story = next(story for story in STORIES[alert] if story.fires)
    summary, description = TEXTS[alert]
    who = {"headrace_dev_deployment": "chat"} if alert == "HeadraceRequestsRefused" else {"name": "chat"}
    expected = {
        "exp_labels": {"severity": ALERTS[alert]["labels"]["severity"], "namespace": "team-a", **who},
        "exp_annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": ALERTS[alert]["annotations"]["runbook_url"],
        },
    }
    played = written(alert, story) | {
        "alert_rule_test": [{"eval_time": f"{story.minutes}m", "alertname": alert, "exp_alerts": [expected]}]
    }
    tests = tmp_path / "texts.yaml"
    tests.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [played]}))
    done = promtool("test", "rules", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_command_of_a_runbook_takes_the_releases_name_for_known() -> None:
    """Leases, Deployments and roles have it; `helm install prod` is as good as `helm install headrace`."""
    blocks = {page.name: re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL) for page in RUNBOOKS.glob("*.md")}
    named = re.compile(r"(?:^|[ /])(?:headrace(?= -n|$)|headrace-(?:lease|router|nodes|operator)\b)")
    commands = [(page, line) for page, found in blocks.items() for block in found for line in block.splitlines()]
    assert [(page, line) for page, line in commands if named.search(line)] == []


def test_every_runbook_is_of_an_alert() -> None:
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(ALERTS)
