"""What some panels show in the cases that matter most, played to Prometheus' own engine."""

from pathlib import Path

import pytest
import yaml
from dashboards import models
from promtool import promtool

ROUTED = 'namespace="default", headrace_dev_router="chat-models"'
CHOSEN = (("$__rate_interval", "5m"), ("$namespace", "default"), ("$router", "chat-models"))


def query(title: str) -> str:
    (expr,) = [query.expr for row in models.BOARD.rows for panel in row.panels if panel.title == title
               for query in panel.queries]  # fmt: skip
    for variable, value in CHOSEN:
        expr = expr.replace(variable, value)
    return expr


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        pytest.param({"Unsure": 10}, 1, id="none was sure yet"),
        pytest.param({"Sure": 10}, 0, id="all were sure"),
        pytest.param({"Sure": 30, "Unsure": 5, "Kept": 5}, 0.25, id="a quarter was not"),
        pytest.param({"Sure": 0, "Unsure": 0}, None, id="nobody asked"),
    ],
)
def test_the_share_of_unsure_answers(tmp_path: Path, answers: dict[str, int], shown: float | None) -> None:
    """`answers` in 30 s, by outcome."""
    name = "headrace_router_fallbacks_total"
    series = [
        {"series": f'{name}{{{ROUTED}, outcome="{outcome}"}}', "values": f"0+{number}x40"}
        for outcome, number in answers.items()
    ]
    expected = [] if shown is None else [{"labels": "{}", "value": shown}]
    asked = {"expr": f"round({query('Unsure')}, 0.01)", "eval_time": "15m", "exp_samples": expected}
    file = tmp_path / "panel.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "30s", "input_series": series, "promql_expr_test": [asked]}]})
    )
    played = promtool("test", "rules", str(file))
    assert played.returncode == 0, played.stdout + played.stderr
