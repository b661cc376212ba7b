"""`headrace serve`'s options about what the server tells."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from headrace_server.config import TelemetryConfig
from headrace_server.errors import ModelRefused

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def add_telemetry_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("telemetry").add_argument
    add("--otlp-endpoint", help="send traces there, http://HOST:4317 (default: $OTEL_EXPORTER_OTLP_ENDPOINT, or none)")
    add("--trace-share", type=_part, default=1.0, help="of the requests whose caller does not trace (default all)")
    add("--profile-dir", type=Path, help="where POST /debug/profile writes (default: it is refused)")
    add("--gpu-hour-price", type=_above_zero, help="of this replica's device, for the cost of a million tokens")
    add("--peak-tflops", type=_above_zero, help="10^12 operations a second, for MFU (default: by the GPU's name)")
    add("--peak-memory-gbs", type=_above_zero, help="10^9 bytes a second, for MBU (likewise)")


def telemetry_from(options: argparse.Namespace, environment: Mapping[str, str]) -> TelemetryConfig:
    """Raises ModelRefused."""
    endpoint = options.otlp_endpoint or environment.get(ENDPOINT) or None
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ModelRefused(f"--otlp-endpoint {endpoint}: must be http://HOST:4317, or https://HOST:4317")
    if options.profile_dir is not None and not options.profile_dir.is_dir():
        raise ModelRefused(f"--profile-dir {options.profile_dir}: is not a directory; make it, or name another one")
    return TelemetryConfig(
        profile_dir=options.profile_dir,
        otlp_endpoint=endpoint,
        trace_share=options.trace_share,
        gpu_hour_price=options.gpu_hour_price,
        peak_flops=options.peak_tflops and options.peak_tflops * 1e12,
        peak_bytes=options.peak_memory_gbs and options.peak_memory_gbs * 1e9,
    )


def _part(word: str) -> float:
    value = float(word)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"is {word}; must be between 0 and 1")
    return value


def _above_zero(word: str) -> float:
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0, and finite")
    return value
