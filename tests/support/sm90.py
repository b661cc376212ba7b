"""Kernels compiled for compute capability 9.0 on a machine without a GPU: a Triton driver that launches nothing."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

REGISTERS = 65_536  # of one multiprocessor
SHARED = 228 * 1024  # bytes of one multiprocessor; 1 KiB of each program's is the system's
WARPS = 64  # that a multiprocessor holds


@dataclass(frozen=True, slots=True)
class Built:
    name: str
    registers: int  # of one thread
    stack: int  # bytes of one thread: registers that did not fit, which live in device memory
    shared: int  # bytes of one program
    warps: int  # of one program
    assembly: str

    @property
    def resident(self) -> int:
        """Programs that one multiprocessor holds at a time."""
        by_registers = REGISTERS // (self.registers * 32 * self.warps)
        return min(by_registers, SHARED // (self.shared + 1024), WARPS // self.warps)


def built(call: Callable[[], object], directory: Path) -> dict[str, Built]:
    """What `call` would launch, by kernel name, compiled for its very arguments. `directory` holds Triton's cache."""
    compiler = _Compiler(directory)
    before = driver._active
    driver.set_active(compiler)
    try:
        with knobs.cache.scope():
            knobs.cache.dir = str(directory)
            call()
    finally:
        driver._active = before
    return compiler.built


class _Compiler:
    """What Triton asks of a driver, and no more."""

    def __init__(self, directory: Path) -> None:
        self.built: dict[str, Built] = {}
        self.utils = self
        self._directory = directory

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1  # no real device's kernels are mixed up with these

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024}  # bytes that one program may have

    def launcher_cls(self, _source: object, metadata: Any) -> Callable[..., None]:
        self._warps = metadata.num_warps
        return lambda *_: None

    def load_binary(self, name: str, binary: bytes, shared: int, _device: int) -> tuple[None, None, int, int, int]:
        """The module is None, so Triton loads a kernel that it compiled before once more, and it is seen here again."""
        file = self._directory / f"{name}.cubin"
        file.write_bytes(binary)
        used = re.search(r"REG:(\d+) STACK:(\d+)", _cuobjdump("-res-usage", file))
        assert used is not None
        registers, stack = map(int, used.groups())
        self.built[name] = Built(name, registers, stack, shared, self._warps, _cuobjdump("-sass", file))
        return None, None, registers, stack, 1024

    def unload_module(self, _module: None) -> None:
        """Nothing was loaded."""


def _cuobjdump(option: str, file: Path) -> str:
    command = [knobs.nvidia.cuobjdump.path, option, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
