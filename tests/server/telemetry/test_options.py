"""The options about what a server tells, and the one environment variable that they fall back to."""

import argparse
from pathlib import Path

import pytest
from headrace_server.config import TelemetryConfig
from headrace_server.errors import ModelRefused
from headrace_server.telemetry.options import ENDPOINT, add_telemetry_options, telemetry_from

COLLECTOR = "http://127.0.0.1:4317"


def config(*words: str, environment: dict[str, str] | None = None) -> TelemetryConfig:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_telemetry_options(parser)
    return telemetry_from(parser.parse_args(words), environment or {})


def test_nothing_is_told_unless_asked_for() -> None:
    assert config() == TelemetryConfig()


def test_every_option_arrives_in_its_unit(tmp_path: Path) -> None:
    words = ("--otlp-endpoint", COLLECTOR, "--trace-share", "0.25", "--profile-dir", str(tmp_path))
    prices = ("--gpu-hour-price", "2.5", "--peak-tflops", "990", "--peak-memory-gbs", "4800")
    assert config(*words, *prices) == TelemetryConfig(COLLECTOR, 0.25, tmp_path, 2.5, 990e12, 4800e9)


def test_the_collector_may_come_from_the_environment_and_the_option_comes_first() -> None:
    environment = {ENDPOINT: "http://127.0.0.2:4317"}
    assert config(environment=environment).otlp_endpoint == "http://127.0.0.2:4317"
    assert config("--otlp-endpoint", COLLECTOR, environment=environment).otlp_endpoint == COLLECTOR
    assert config(environment={ENDPOINT: ""}).otlp_endpoint is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("--otlp-endpoint", "127.0.0.1:4317"), "must be http://HOST:4317", id="no scheme"),
        pytest.param(("--profile-dir", "nowhere/at/all"), "is not a directory", id="no directory"),
    ],
)
def test_what_could_not_work_is_refused_with_the_remedy(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ModelRefused, match=said):
        config(*words)


@pytest.mark.parametrize("words", [("--trace-share", "1.5"), ("--gpu-hour-price", "0"), ("--peak-tflops", "-1")])
def test_numbers_that_make_no_sense_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(argparse.ArgumentError):
        config(*words)
