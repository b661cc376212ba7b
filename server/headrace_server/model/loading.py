"""From a checkpoint directory to a runner: everything that can be refused is refused here, before a request comes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from headrace_server.config import ServerConfig
from headrace_server.engine.limits import Limits
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.attention import GatherAttention, Heads
from headrace_server.model.cache import empty_cache, pages_that_fit
from headrace_server.model.device import CpuDevice, CudaDevice
from headrace_server.model.runner import ModelRunner
from headrace_server.model.transformer import Transformer
from headrace_server.model.weights import Weights, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALL = 100_000_000  # parameters
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
    weights = load_weights(config.model, shape, device, dtype)
    _use_few_threads(weights, device)
    on_phase("kv_cache")
    limits = _limits(shape, config, device, dtype)
    cache = empty_cache(shape, config.engine, limits.kv_pages, device, dtype)
    cos, sin = shape.rope.tables(limits.max_context, shape.head_dim, device)
    attention = GatherAttention(Heads(shape.heads, shape.kv_heads, shape.head_dim), cache, cos, sin)
    transformer = Transformer(shape, weights, attention)
    runs_on = CpuDevice() if device.type == "cpu" else CudaDevice(device)
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


def _use_few_threads(weights: Weights, device: torch.device) -> None:
    """Large models keep torch's choice, which OMP_NUM_THREADS sets.

    Waiting for a second thread costs more than it computes of a small step. 5.5 M parameters, 8 sequences, a busy
    machine with 2 cores: 14 ms a step with one thread, 251 ms with two.
    """
    parameters = sum(tensor.numel() for tensor in weights.tensors())
    if device.type == "cpu" and parameters < SMALL:
        torch.set_num_threads(1)


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
