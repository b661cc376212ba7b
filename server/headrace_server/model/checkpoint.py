"""Tensors of a checkpoint directory, by name, from safetensors files that are mapped and copied once.

Pickled checkpoints are refused: loading one runs whatever code it contains.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headrace_server.errors import ModelRefused

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
READABLE = (torch.float32, torch.bfloat16, torch.float16)
Shapes = dict[str, tuple[int, ...]]
Read = Callable[..., Tensor]  # names -> their tensors in one, joined by rows


@dataclass(frozen=True, slots=True)
class Checkpoint:
    files: Mapping[str, Path]  # tensor name -> the file that holds it
    shapes: Shapes  # what config.json asks for
    prefix: str = ""  # that our names have and the file's have not
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of what is in fewer bits than READABLE

    @contextmanager
    def reading(self, device: torch.device, dtype: torch.dtype | None) -> Iterator[Read]:
        """What is read is a copy of our own, written once: converted and moved on the way. Raises ModelRefused.

        `dtype`: None = as it is in the file.

        The pages of a mapped file count as this process's memory until the file is closed. So read a layer, close,
        read the next: loading then needs the weights and one layer, not the weights twice.
        """
        with ExitStack() as opened:
            handles: dict[Path, Any] = {}

            def mapped(name: str) -> Tensor:
                path = self.files[name]
                if path not in handles:
                    handles[path] = opened.enter_context(_open(path))
                return self._checked(name, handles[path])

            def read(*names: str) -> Tensor:
                parts = [mapped(name) for name in names]
                heights = [len(part) for part in parts]
                joined = torch.empty((sum(heights), *parts[0].shape[1:]), device=device, dtype=dtype or parts[0].dtype)
                for place, part in zip(torch.split(joined, heights), parts, strict=True):
                    place.copy_(part)
                return joined

            yield read

    def _checked(self, name: str, handle: Any) -> Tensor:
        path = self.files[name]
        try:
            tensor: Tensor = handle.get_tensor(name.removeprefix(self.prefix))
        except SafetensorError as broken:
            raise ModelRefused(f"{path}: {name} cannot be read: {broken}") from broken
        if tuple(tensor.shape) != self.shapes[name]:
            raise ModelRefused(
                f"{path}: {name} has shape {tuple(tensor.shape)}, config.json asks for {self.shapes[name]}"
            )
        if name in self.dtypes and tensor.dtype != self.dtypes[name]:
            raise ModelRefused(f"{path}: {name} is {tensor.dtype}; config.json says that it is {self.dtypes[name]}")
        if name not in self.dtypes and tensor.dtype not in READABLE:
            raise ModelRefused(f"{path}: {name} is {tensor.dtype}; give the weights as float32, bfloat16 or float16")
        return tensor


def files_in(directory: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it. Raises ModelRefused."""
    if (directory / INDEX).exists():
        return _sharded(directory)
    if (directory / SINGLE).exists():
        return dict.fromkeys(names_in(directory / SINGLE), directory / SINGLE)
    refuse_pickled(directory)
    raise ModelRefused(f"{directory} holds no weights; expected {SINGLE} or {INDEX}")


def names_in(path: Path) -> set[str]:
    """Of the tensors in a file. Raises ModelRefused."""
    with _open(path) as file:
        return set(file.keys())


def refuse_pickled(directory: Path) -> None:
    """Raises ModelRefused if pickled weights are all that there is."""
    pickled = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickled:
        raise ModelRefused(
            f"{directory} holds only pickled weights ({', '.join(pickled[:3])}), which can run code when they are "
            "loaded; convert them with transformers: save_pretrained(..., safe_serialization=True)"
        )


def _sharded(directory: Path) -> dict[str, Path]:
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {name: directory / Path(file).name for name, file in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise ModelRefused(f"{directory / INDEX} is not an index of safetensors files: {broken!r}") from broken
    missing = sorted({path.name for path in files.values() if not path.exists()})
    if missing:
        raise ModelRefused(f"{directory / INDEX} names files that are missing: {', '.join(missing)}")
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as broken:
        raise ModelRefused(f"{path} cannot be read as safetensors: {broken}") from broken
