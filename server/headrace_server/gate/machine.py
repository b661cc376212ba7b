"""On which machine a model is measured, and on which it is served: what a report says of speed holds there alone."""

from collections.abc import Mapping
from typing import Any

from headrace_server.machine import machine

SAME = ("cpu", "cores", "gpu")  # where a speed is comparable


def measuring(device: str) -> dict[str, Any]:
    """What a report says of this machine. `device`: as in ServerConfig."""
    if device != "cuda":
        return machine()
    import torch  # noqa: PLC0415 - takes seconds, and only a GPU's name needs it

    # Where there is none, the model is refused when it is loaded.
    return with_gpu(torch.cuda.get_device_name() if torch.cuda.is_available() else None)


def with_gpu(name: str | None) -> dict[str, Any]:
    """This machine. `name`: of the GPU that computes; None: the CPU does."""
    return machine() if name is None else machine() | {"gpu": name}


def moved(body: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, str] | None:
    """Where a report's model was measured and where it is now, in words; None: the same machine, as far as is known."""
    before, now = _told(body.get("machine")), _told(here)
    return None if before == now else (before, now)


def _told(said: Any) -> str:
    if not isinstance(said, Mapping):
        return "a machine that it does not name"
    gpu = said.get("gpu")
    return f"{said.get('cores')} cores of {said.get('cpu')}" + ("" if gpu is None else f" and {gpu}")
