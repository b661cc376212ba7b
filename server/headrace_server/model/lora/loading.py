"""Adapters from PEFT's safetensors, joined as the weights are: one pair of matrices for each product of a layer."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.config import AdapterDirectory
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture
from headrace_server.model.checkpoint import Checkpoint, Read, Shapes, names_in, refuse_pickled
from headrace_server.model.lora.config import AdapterConfig, read_config
from headrace_server.model.lora.delta import Adapters, Delta, LayerDeltas
from headrace_server.model.projection import Layout
from headrace_server.model.weights import expected_shapes

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before the name of a module
A, B = ".lora_A.weight", ".lora_B.weight"
PRODUCTS = {  # of a layer: the modules that are multiplied in one
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gated": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
SERVED = ", ".join(module.split(".")[1] for modules in PRODUCTS.values() for module in modules)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What adapters are put beside."""

    shape: Architecture
    device: torch.device
    dtype: torch.dtype
    layout: Layout
    most_rank: int


def load_adapters(directories: Iterable[AdapterDirectory], target: Target) -> Adapters:
    """In their order. Raises ModelRefused, naming the adapter."""
    found = {each.name: _adapter(each, target) for each in directories}

    def of(index: int, product: str) -> dict[str, Delta]:
        parts = {name: layers[index][product] for name, layers in found.items()}
        return {name: part for name, part in parts.items() if part is not None}

    layers = range(target.shape.layers) if found else ()
    return Adapters(tuple(LayerDeltas(**{product: of(index, product) for product in PRODUCTS}) for index in layers))


LayerParts = Mapping[str, Delta | None]  # of one adapter, by product


def _adapter(adapter: AdapterDirectory, target: Target) -> list[LayerParts]:
    config = read_config(adapter, target.most_rank)
    try:
        reading = _Reading(config, target, _checkpoint(adapter, config, target.shape))
        found = [reading.layer(index) for index in range(target.shape.layers)]
    except ModelRefused as refused:
        raise ModelRefused(f"adapter {adapter.name}: {refused}") from refused
    log.info("adapter %s: rank %d, %d matrices", adapter.name, config.rank, len(reading.checkpoint.files) // 2)
    return found


def _checkpoint(adapter: AdapterDirectory, config: AdapterConfig, shape: Architecture) -> Checkpoint:
    path = adapter.directory / FILE
    if not path.exists():
        refuse_pickled(adapter.directory)
        raise ModelRefused(f"{adapter.directory} holds no {FILE}")
    names, shapes = names_in(path), _shapes(config.rank, shape)
    strange = sorted(names - set(shapes))
    if strange:
        raise ModelRefused(
            f"{path} holds {strange[0]}, one of {len(strange)} tensors that are not served; train only {SERVED} of "
            f"{shape.layers} layers"
        )
    halves = sorted(name for name in names if _other(name) not in names)
    if halves or not names:
        raise ModelRefused(f"{path} holds {halves[0]} and not {_other(halves[0])}" if halves else f"{path} is empty")
    return Checkpoint(dict.fromkeys(names, path), shapes)


def _shapes(rank: int, shape: Architecture) -> Shapes:
    """Of all that an adapter may hold."""
    found: Shapes = {}
    for name, size in expected_shapes(shape).items():
        module = f"{PREFIX}{name.removesuffix('.weight')}"
        if ".layers." in module and len(size) == 2:
            found |= {f"{module}{A}": (rank, size[1]), f"{module}{B}": (size[0], rank)}
    return found


def _other(name: str) -> str:
    return f"{name.removesuffix(A)}{B}" if name.endswith(A) else f"{name.removesuffix(B)}{A}"


@dataclass(frozen=True, slots=True)
class _Reading:
    """Of one adapter."""

    config: AdapterConfig
    target: Target
    checkpoint: Checkpoint

    def layer(self, index: int) -> LayerParts:
        prefix = f"{PREFIX}model.layers.{index}"
        with self.checkpoint.reading(self.target.device, torch.float32) as read:
            return {
                product: self._delta([f"{prefix}.{module}" for module in modules], read)
                for product, modules in PRODUCTS.items()
            }

    def _delta(self, modules: list[str], read: Read) -> Delta | None:
        """B is 0 from one module's ranks to another one's outputs, and where a module has no adapter."""
        there = [module for module in modules if f"{module}{A}" in self.checkpoint.files]
        if not there:
            return None
        layout, dtype = self.target.layout, self.target.dtype
        heights = [self.checkpoint.shapes[f"{module}{B}"][0] for module in modules]
        ups = torch.zeros(sum(heights), self.config.rank * len(there), device=self.target.device)
        for module, rows in zip(modules, torch.split(ups, heights), strict=True):
            if module in there:
                self._columns(rows, there.index(module)).copy_(read(f"{module}{B}") * self.config.scale)
        downs = read(*(f"{module}{A}" for module in there))
        return Delta(layout.projection(downs.to(dtype), None), layout.projection(ups.to(dtype), None))

    def _columns(self, rows: Tensor, place: int) -> Tensor:
        rank = self.config.rank
        return rows[:, place * rank : (place + 1) * rank]
