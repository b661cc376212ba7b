"""From a checkpoint directory to a runner: everything that can be refused is refused here, before a request comes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headrace_server.config import EngineConfig, ServerConfig
from headrace_server.engine.limits import Limits
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.attention import Attention, GatherAttention, Heads
from headrace_server.model.cache import KvCache, empty_cache, pages_that_fit
from headrace_server.model.cpu.threads import settle_threads
from headrace_server.model.device import CpuDevice, CudaDevice
from headrace_server.model.layouts import fastest_layout
from headrace_server.model.norm import Norm, PlainNorm
from headrace_server.model.runner import ModelRunner
from headrace_server.model.transformer import Transformer
from headrace_server.model.weights import count_parameters, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_KV_CACHE = 256 * 2**20  # bytes
GPU_SHARE = 0.85  # of the memory that is free once the weights are there; the rest is for activations
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    runner: ModelRunner
    limits: Limits


def load_model(config: ServerConfig, on_phase: Callable[[str], None]) -> Loaded:
    """`on_phase` hears each phase's name when it begins. Raises ModelRefused."""
    on_phase("device")
    device, dtype = _device(config.device), _dtype(config.dtype)
    on_phase("weights")
    shape = read_architecture(config.model)
    settle = partial(settle_threads, config.engine, count_parameters(shape))
    if device.type == "cpu":
        settle()
    layout, why = fastest_layout(shape, device, dtype)
    log.info("weight layout %s: %s", layout.name, why)
    weights = load_weights(config.model, shape, device, dtype, layout)
    on_phase("kv_cache")
    limits = _limits(shape, config, device, dtype)
    cache = empty_cache(shape, config.engine, limits.kv_pages, device, dtype)
    cos, sin = shape.rope.tables(limits.max_context, shape.head_dim, device)
    on_phase("kernels")
    attention = _attention(config.engine, cache, Heads(shape.heads, shape.kv_heads, shape.head_dim), cos, sin)
    transformer = Transformer(shape, weights, attention, _norm(config.engine, shape, device, dtype))
    runs_on = CpuDevice(settle) if device.type == "cpu" else CudaDevice(device)
    return Loaded(ModelRunner(transformer, cache, runs_on, config.engine, limits), limits)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            "device cuda was asked for and torch sees no GPU; give the pod one (nvidia.com/gpu) on a node with the "
            "NVIDIA driver, or serve with --device=cpu"
        )
    if name not in ("cuda", "cpu"):
        raise ModelRefused(f"device {name} is not supported; supported: cuda, cpu")
    return torch.device(name)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelRefused(f"dtype {name} is not supported; supported: {', '.join(DTYPES)}")
    return DTYPES[name]


def _attention(config: EngineConfig, cache: KvCache, heads: Heads, cos: Tensor, sin: Tensor) -> Attention:
    """The kernel for CPUs where it works; else, and for comparison, the plain one."""
    if cos.device.type != "cpu" or config.plain_kernels:
        return GatherAttention(heads, cache, cos, sin)
    from headrace_server.model.cpu import attention  # noqa: PLC0415 - a GPU pod needs no compiler for CPUs

    if not attention.is_available(cache.keys.dtype):
        log.warning("attention copies its context each step: no kernel for %s with this torch", cache.keys.dtype)
        return GatherAttention(heads, cache, cos, sin)
    return attention.CpuAttention(heads, cache, cos, sin)


def _norm(config: EngineConfig, shape: Architecture, device: torch.device, dtype: torch.dtype) -> Norm:
    if device.type == "cpu" and not config.plain_kernels:
        from headrace_server.model.cpu import norm  # noqa: PLC0415 - as above

        if norm.is_available(dtype):
            return norm.CpuNorm(shape.hidden_size, shape.rms_norm_eps)
    return PlainNorm(shape.rms_norm_eps)


def _kv_cache_bytes(config: ServerConfig, device: torch.device) -> int:
    """What was asked for; else on a GPU a share of what the weights left free, on a CPU a modest constant."""
    if config.engine.kv_cache_bytes is not None:
        return config.engine.kv_cache_bytes
    if device.type != "cuda":
        return CPU_KV_CACHE
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_SHARE)


def _limits(shape: Architecture, config: ServerConfig, device: torch.device, dtype: torch.dtype) -> Limits:
    pages = pages_that_fit(shape, config.engine, dtype, _kv_cache_bytes(config, device))
    held = pages * config.engine.page_size  # tokens
    if held < shape.max_position:
        log.warning(
            "the KV cache holds %d tokens, the model was trained for %d: longer requests are refused; raise "
            "--kv-cache-mib to serve them",
            held,
            shape.max_position,
        )
    return Limits(min(shape.max_position, held), shape.vocab_size, shape.eos_token_ids, pages)
