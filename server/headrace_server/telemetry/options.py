"""`headrace serve`'s options about what the server tells."""

import argparse

from headrace_server.config import TelemetryConfig


def add_telemetry_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("telemetry").add_argument
    add("--gpu-hour-price", type=_above_zero, help="of this replica's device, for the cost of a million tokens")
    add("--peak-tflops", type=_above_zero, help="10^12 operations a second, for MFU (default: by the GPU's name)")
    add("--peak-memory-gbs", type=_above_zero, help="10^9 bytes a second, for MBU (likewise)")


def telemetry_from(options: argparse.Namespace) -> TelemetryConfig:
    return TelemetryConfig(
        gpu_hour_price=options.gpu_hour_price,
        peak_flops=options.peak_tflops and options.peak_tflops * 1e12,
        peak_bytes=options.peak_memory_gbs and options.peak_memory_gbs * 1e9,
    )


def _above_zero(word: str) -> float:
    value = float(word)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0")
    return value
