"""What a GPU can do at best and how much it holds, by the short name that people use.

Speeds are those of `telemetry.peaks`: dense bfloat16 and memory bandwidth of NVIDIA's data sheets. Memory is the data
sheet's, in GB of 10^9 bytes; drivers show a little more or less.
"""

from dataclasses import dataclass

from headrace_server.telemetry.peaks import KNOWN

GIGA, TERA = 1e9, 1e12
SOURCE = "NVIDIA's data sheet"


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    memory: float  # bytes
    read: float  # bytes a second
    multiply: float  # operations a second, dense
    source: str  # of these figures
    is_cpu: bool = False

    def times(self, number: int) -> "Device":
        """So many that share a model, as if passing numbers between them took no time."""
        name = self.name if number == 1 else f"{number} x {self.name}"
        return Device(name, number * self.memory, number * self.read, number * self.multiply, self.source, self.is_cpu)


_MEMORY = {  # short name -> the driver's name, GB
    "a10g": ("NVIDIA A10G", 24),
    "a100": ("NVIDIA A100-SXM4-80GB", 80),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", 40),
    "b200": ("NVIDIA B200", 180),
    "h100": ("NVIDIA H100 80GB HBM3", 80),
    "h100-pcie": ("NVIDIA H100 PCIe", 80),
    "h200": ("NVIDIA H200", 141),
    "l4": ("NVIDIA L4", 24),
    "l40s": ("NVIDIA L40S", 48),
}
CPU = "cpu"
NAMES = (*_MEMORY, CPU)


def known(name: str) -> Device:
    """Of any of NAMES but the CPU, of which nothing is known."""
    driver, gigabytes = _MEMORY[name]
    peak = KNOWN[driver]
    assert peak.bytes is not None
    assert peak.flops is not None
    return Device(name, gigabytes * GIGA, peak.bytes, peak.flops, SOURCE)
