"""What the GPU counted of itself, by NVML: how busy its parts were, power, memory.

Never nvidia-smi's "utilization": that is the share of time in which any kernel ran, however small.

A thread of its own reads once a second: some of the calls take milliseconds, which an event loop must not wait for.
Activities come from GPM, which Hopper and later have; where it is missing, those series are absent.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PERIOD = 1.0  # seconds
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuName:
    """What the driver calls it."""

    model: str
    uuid: str  # as NVML writes it


@dataclass(frozen=True, slots=True)
class GpuReading:
    """None: this GPU or its driver does not say."""

    power: float | None = None  # watts
    energy: float | None = None  # joules since the driver was loaded
    memory_used: float | None = None  # bytes, of all processes
    memory_total: float | None = None  # bytes
    activity: dict[str, float] = field(default_factory=dict)  # shares of the last second, by series


class Gpu:
    """One GPU. `nvml` is the module pynvml, initialised."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        """`uuid` as NVML writes it: GPU-... Raises NVMLError."""
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._metrics = {
            "sm_activity": nvml.NVML_GPM_METRIC_SM_UTIL,
            "sm_occupancy": nvml.NVML_GPM_METRIC_SM_OCCUPANCY,
            "tensor_activity": nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
            "dram_activity": nvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
        }
        self._samples = self._two_samples()

    def read(self) -> GpuReading:
        power = self._asked(self._nvml.nvmlDeviceGetPowerUsage)  # milliwatts
        energy = self._asked(self._nvml.nvmlDeviceGetTotalEnergyConsumption)  # millijoules
        memory = self._asked(self._nvml.nvmlDeviceGetMemoryInfo)
        return GpuReading(
            power=None if power is None else power / 1000,
            energy=None if energy is None else energy / 1000,
            memory_used=None if memory is None else float(memory.used),
            memory_total=None if memory is None else float(memory.total),
            activity=dict(self._activity()),
        )

    def _two_samples(self) -> list[Any] | None:
        """None: no GPM on this GPU."""
        try:
            if not self._nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                return None
            samples = [self._nvml.nvmlGpmSampleAlloc() for _ in range(2)]
            self._nvml.nvmlGpmSampleGet(self._handle, samples[0])
        except self._nvml.NVMLError as error:
            log.info("no SM and DRAM activity: GPM is not available here (%s)", error)
            return None
        return samples

    def _activity(self) -> Iterator[tuple[str, float]]:
        """Since the reading before."""
        if self._samples is None:
            return
        nvml, (before, now) = self._nvml, self._samples
        question = nvml.c_nvmlGpmMetricsGet_t()
        question.version, question.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(self._metrics)
        question.sample1, question.sample2 = before, now
        for place, number in enumerate(self._metrics.values()):
            question.metrics[place].metricId = number
        try:
            nvml.nvmlGpmSampleGet(self._handle, now)
            answer = nvml.nvmlGpmMetricsGet(question)
        except nvml.NVMLError as error:
            log.warning("the GPU's activity could not be read this time: %s", error)
            return
        self._samples = [now, before]
        for place, name in enumerate(self._metrics):
            if answer.metrics[place].nvmlReturn == nvml.NVML_SUCCESS:
                yield name, answer.metrics[place].value / 100

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        """None: it does not say."""
        try:
            return question(self._handle)
        except self._nvml.NVMLError:  # not supported by this GPU, or not now
            return None


class GpuSeries(Collector):
    """The latest reading, under one label: which GPU."""

    def __init__(self, gpu: Gpu, uuid: str) -> None:
        self._gpu = gpu
        self._uuid = uuid
        self._latest = gpu.read()
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="gpu-counters", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def collect(self) -> Iterable[Metric]:
        now = self._latest
        energy = CounterMetricFamily("headrace_gpu_energy_joules", "Energy since the driver was loaded", labels=["gpu"])
        if now.energy is not None:
            energy.add_metric([self._uuid], now.energy)
            yield energy
        gauges = {
            "power_watts": ("Power now", now.power),
            "memory_used_bytes": ("Memory in use, by all processes", now.memory_used),
            "memory_total_bytes": ("Memory", now.memory_total),
            "sm_activity": ("Share of the SMs that were busy", now.activity.get("sm_activity")),
            "sm_occupancy": ("Share of the warps that could be resident that were", now.activity.get("sm_occupancy")),
            "tensor_activity": ("Share of time in tensor operations", now.activity.get("tensor_activity")),
            "dram_activity": ("Share of the memory bandwidth that was used", now.activity.get("dram_activity")),
        }
        for name, (text, value) in gauges.items():
            if value is not None:
                family = GaugeMetricFamily(f"headrace_gpu_{name}", text, labels=["gpu"])
                family.add_metric([self._uuid], value)
                yield family

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD):
            self._latest = self._gpu.read()


def gpu_series(uuid: str) -> GpuSeries | None:
    """None, with the reason in the log, when NVML or the GPU is not there."""
    import pynvml  # noqa: PLC0415 - only a pod with a GPU asks

    try:
        pynvml.nvmlInit()
        return GpuSeries(Gpu(pynvml, uuid), uuid)
    except pynvml.NVMLError as error:
        log.warning("no counters of GPU %s: NVML says: %s", uuid, error)
        return None
