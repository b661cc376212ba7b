"""The GPU's counters through a stand-in for NVML, which a machine without a GPU has not; and that machine's silence."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from headrace_server.telemetry.gpu import Gpu, GpuSeries, gpu_series
from prometheus_client import CollectorRegistry

UUID = "GPU-5c0f"


@dataclass
class Driver:
    """Answers as a Hopper does; `silent` are calls that this GPU does not support."""

    silent: tuple[str, ...] = ()
    gpm: bool = True
    samples: int = 0

    def __getattr__(self, name: str) -> Any:
        if name in self.silent:
            return self._not_supported
        answers = {
            "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
            "nvmlDeviceGetPowerUsage": lambda _: 412_500,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: 5_000,
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3 * 2**30, total=80 * 2**30),
            "nvmlGpmQueryDeviceSupport": lambda _: SimpleNamespace(isSupportedDevice=int(self.gpm)),
            "nvmlGpmSampleAlloc": pynvml.c_nvmlGpmSample_t,
            "nvmlGpmSampleGet": self._sample,
            "nvmlGpmMetricsGet": self._metrics,
        }
        return answers[name] if name in answers else getattr(pynvml, name)

    def _not_supported(self, *_: Any) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def _sample(self, *_: Any) -> None:
        self.samples += 1

    def _metrics(self, question: Any) -> Any:
        assert question.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        values = {
            pynvml.NVML_GPM_METRIC_SM_UTIL: 62.5,
            pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: 25.0,
            pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: 50.0,
            pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: 75.0,
        }
        for place in range(question.numMetrics):
            question.metrics[place].value = values[question.metrics[place].metricId]
            question.metrics[place].nvmlReturn = pynvml.NVML_SUCCESS
        return question


def series(driver: Driver) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(GpuSeries(Gpu(driver, UUID), UUID))
    return {
        sample.name.removeprefix("headrace_gpu_"): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels == {"gpu": UUID}
    }


def test_a_gpu_says_how_busy_its_parts_are() -> None:
    assert series(Driver()) == {
        "power_watts": 412.5,
        "energy_joules_total": 5.0,
        "memory_used_bytes": 3 * 2**30,
        "memory_total_bytes": 80 * 2**30,
        "sm_activity": 0.625,
        "sm_occupancy": 0.25,
        "tensor_activity": 0.5,
        "dram_activity": 0.75,
    }


@pytest.mark.parametrize(
    "driver", [Driver(gpm=False), Driver(silent=("nvmlGpmQueryDeviceSupport",)), Driver(silent=("nvmlGpmMetricsGet",))]
)
def test_without_gpm_there_is_no_activity_and_no_other_number_in_its_place(driver: Driver) -> None:
    assert set(series(driver)) == {"power_watts", "energy_joules_total", "memory_used_bytes", "memory_total_bytes"}


def test_what_a_gpu_does_not_say_is_absent() -> None:
    assert "power_watts" not in series(Driver(silent=("nvmlDeviceGetPowerUsage",)))


def test_a_machine_without_the_driver_has_no_series(caplog: pytest.LogCaptureFixture) -> None:
    assert gpu_series(UUID) is None
    assert "NVML" in caplog.text
