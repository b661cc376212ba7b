"""Registers what is made at scrape time, and what is known of the device."""

import time

from headrace_server.config import ServerConfig
from headrace_server.metrics import ServerMetrics
from headrace_server.telemetry.aliases import VllmNames
from headrace_server.telemetry.gpu import GpuName, gpu_series
from headrace_server.telemetry.peaks import peak_of
from headrace_server.telemetry.recent import Recent


def expose(config: ServerConfig, metrics: ServerMetrics) -> None:
    """Once a process, when its doors open."""
    price, on_gpu = config.telemetry.gpu_hour_price, config.device == "cuda"
    metrics.registry.register(VllmNames(metrics, config.name))
    metrics.registry.register(Recent(metrics, time.monotonic, price, on_gpu))


def expose_device(config: ServerConfig, metrics: ServerMetrics, gpu: GpuName | None) -> None:
    """Once the model is on it. `gpu` None: a CPU."""
    told = config.telemetry
    peak = peak_of(gpu.model if gpu else None, config.dtype, told.peak_flops, told.peak_bytes)
    if peak.flops is not None:
        metrics.device_peak_flops.labels(config.dtype).set(peak.flops)
    if peak.bytes is not None:
        metrics.device_peak_bytes.labels(config.device).set(peak.bytes)
    series = gpu_series(gpu.uuid) if gpu else None
    if series is not None:
        metrics.registry.register(series)
        series.start()
