"""What a device can do at best, by its name or as configured. A device that is not known has no peak, and no MFU."""

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True)
class Peak:
    flops: float | None  # operations a second at the model's dtype, dense; None: not known
    bytes: float | None  # a second, of the device's memory; None: not known


# As the driver calls them. Dense bfloat16 and float16 (without sparsity), and memory bandwidth, from NVIDIA's data
# sheets. float32 is not in here: which units compute it depends on a setting.
KNOWN = {
    "NVIDIA A100-SXM4-40GB": Peak(312 * TERA, 1555 * GIGA),
    "NVIDIA A100-SXM4-80GB": Peak(312 * TERA, 2039 * GIGA),
    "NVIDIA A100-PCIE-40GB": Peak(312 * TERA, 1555 * GIGA),
    "NVIDIA A100 80GB PCIe": Peak(312 * TERA, 1935 * GIGA),
    "NVIDIA H100 80GB HBM3": Peak(989 * TERA, 3350 * GIGA),
    "NVIDIA H100 PCIe": Peak(756 * TERA, 2000 * GIGA),
    "NVIDIA H100 NVL": Peak(835 * TERA, 3900 * GIGA),
    "NVIDIA H200": Peak(989 * TERA, 4800 * GIGA),
    "NVIDIA L4": Peak(121 * TERA, 300 * GIGA),
    "NVIDIA L40S": Peak(362 * TERA, 864 * GIGA),
    "NVIDIA A10G": Peak(70 * TERA, 600 * GIGA),
    "NVIDIA B200": Peak(2250 * TERA, 8000 * GIGA),
}
HALVES = ("bfloat16", "float16")


def peak_of(device_name: str | None, dtype: str, flops: float | None, bytes_per_second: float | None) -> Peak:
    """What was configured comes first; `device_name` as the driver says it, None for a CPU."""
    known = KNOWN.get(device_name or "", Peak(None, None))
    by_name = known.flops if dtype in HALVES else None
    return Peak(flops or by_name, bytes_per_second or known.bytes)
