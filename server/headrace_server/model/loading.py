"""From a checkpoint directory to a runner: everything that can be refused is refused here, before a request comes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from headrace_server.config import ServerConfig
from headrace_server.engine.limits import Limits
from headrace_server.errors import ModelRefused
from headrace_server.model.architecture import Architecture, read_architecture
from headrace_server.model.assembly import assembled
from headrace_server.model.backend import Backend, backend_for
from headrace_server.model.cache import bytes_per_token, cache_dtype, empty_cache, pages_that_fit
from headrace_server.model.cpu.threads import settle_threads
from headrace_server.model.device import CpuDevice, CudaDevice
from headrace_server.model.draft import load_draft
from headrace_server.model.lora.loading import Target, load_adapters
from headrace_server.model.projection import Plain
from headrace_server.model.quantisation import settled
from headrace_server.model.runner import ModelRunner
from headrace_server.model.weights import FewerBits, count_parameters, load_weights
from headrace_server.model.work import work_of
from headrace_server.telemetry.gpu import GpuName
from headrace_server.telemetry.work import ModelWork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_KV_CACHE = 256 * 2**20  # bytes
GPU_SHARE = 0.85  # of the memory that is free once the weights are there; the rest is for activations
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    runner: ModelRunner
    limits: Limits
    device: str  # that the weights are on: cuda | cpu
    work: ModelWork
    gpu: GpuName | None  # None: a CPU


def load_model(config: ServerConfig, on_phase: Callable[[str], None], backend: Backend | None = None) -> Loaded:
    """`on_phase` hears each phase's name when it begins. `backend`: None = the device's own. Raises ModelRefused."""
    on_phase("device")
    device, dtype = _device(config.device), _dtype(config.dtype)
    backend = backend or backend_for(device, config.engine)
    on_phase("weights")
    shape = read_architecture(config.model)
    settle = partial(settle_threads, config.engine, count_parameters(shape))
    if device.type == "cpu":
        settle()
    layout, why = backend.layout(shape, dtype)
    log.info("weight layout %s: %s", layout.name, why)
    fewer_bits = _fewer_bits(config, backend)
    weights = load_weights(config.model, shape, device, dtype, layout, fewer_bits=fewer_bits)
    small = layout if config.engine.batch_invariant else Plain()  # matrices of few ranks gain nothing by being packed
    adapters = load_adapters(config.lora.adapters, Target(shape, device, dtype, small, config.lora.most_rank))
    draft = load_draft(config, shape, device, dtype, backend)
    on_phase("kv_cache")
    kept = cache_dtype(config.engine, dtype)
    memory = int(_kv_cache_bytes(config, device) * (1 - draft.share(shape, config.engine) if draft else 1))
    limits = _limits(shape, config, memory, kept)
    cache = empty_cache(shape, config.engine, limits.kv_pages, device, kept, heads_apart=backend.heads_apart)
    on_phase("kernels")
    transformer = assembled(
        shape, weights, cache, backend, positions=limits.max_context, dtype=dtype, adapters=adapters
    )
    drafter = draft.drafter(config.engine, limits, backend) if draft else None
    runs_on = CpuDevice(settle) if device.type == "cpu" else CudaDevice(device)
    captures = backend.captures and not config.engine.check_gathers  # checking asks the device, a graph cannot
    runner = ModelRunner(transformer, cache, runs_on, config.engine, limits, captures=captures, drafter=drafter)
    work = work_of(shape, dtype, fewer_bits.how if fewer_bits else None)
    work = replace(work, kv_bytes_per_token=float(bytes_per_token(shape, kept)))
    return Loaded(runner, limits, weights.embedding.device.type, work, gpu_of(device))


def _fewer_bits(config: ServerConfig, backend: Backend) -> FewerBits | None:
    how, is_stored = settled(config.model, config.quantization)
    if how is None:
        return None
    layout, why = backend.quantised()
    log.info("weights in %s, without %s: %s", how.weights, ", ".join(sorted(how.excluded)) or "exception", why)
    return FewerBits(how, layout, is_stored)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            "device cuda was asked for and torch sees no GPU; give the pod one (nvidia.com/gpu) on a node with the "
            "NVIDIA driver, or serve with --device=cpu"
        )
    if name not in ("cuda", "cpu"):
        raise ModelRefused(f"device {name} is not supported; supported: cuda, cpu")
    return torch.device(name)


def gpu_of(device: torch.device) -> GpuName | None:
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return GpuName(properties.name, f"GPU-{properties.uuid}")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ModelRefused(f"dtype {name} is not supported; supported: {', '.join(DTYPES)}")
    return DTYPES[name]


def _kv_cache_bytes(config: ServerConfig, device: torch.device) -> int:
    """What was asked for; else on a GPU a share of what the weights left free, on a CPU a modest constant."""
    if config.engine.kv_cache_bytes is not None:
        return config.engine.kv_cache_bytes
    if device.type != "cuda":
        return CPU_KV_CACHE
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_SHARE)


def _limits(shape: Architecture, config: ServerConfig, memory: int, dtype: torch.dtype) -> Limits:
    """`memory`: of the KV cache, bytes."""
    pages = pages_that_fit(shape, config.engine, dtype, memory)
    held = pages * config.engine.page_size  # tokens
    if held < shape.max_position:
        log.warning(
            "the KV cache holds %d tokens, the model was trained for %d: longer requests are refused; raise "
            "--kv-cache-mib to serve them",
            held,
            shape.max_position,
        )
    context = min(shape.max_position, held)
    return Limits(context, shape.vocab_size, shape.eos_token_ids, pages, config.lora.names)
