"""`headrace serve`: the command line becomes a ServerConfig, and how the process ended becomes an exit code."""

import argparse
import asyncio
import json
import logging
import math
import os
import re
import sys
from pathlib import Path

from headrace_server import (
    access_options,
    cache_options,
    gate_options,
    invariance_options,
    lora_options,
    quantization_options,
    speculative_options,
)
from headrace_server.config import BatchConfig, EngineConfig, ServerConfig, Task, page_size_for
from headrace_server.errors import ModelRefused
from headrace_server.hub_cache import checkpoint
from headrace_server.telemetry.options import add_telemetry_options, telemetry_from
from headrace_server.tenants import Tenants, tenants_from

MOST_CORES = 4096
EX_CONFIG = 78  # sysexits.h; the operator tells the user that restarting will not help
DEFAULTS = EngineConfig()


def register(parser: argparse.ArgumentParser) -> None:
    """Serve one model over gRPC and OpenAI-compatible HTTP."""
    add = parser.add_argument
    add("--model", required=True, help="folder of config.json, tokenizer.json, *.safetensors, or hf://ORG/NAME[@REV]")
    add("--hub-cache", type=Path, help="Hugging Face cache in which a --model=hf://... lies; nothing is downloaded")
    add("--name", required=True, help="the model name that clients send")
    add("--task", type=Task, choices=tuple(Task), default=Task.GENERATE, help="what for (default %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--grpc-port", type=int, default=50051)
    add("--http-port", type=int, default=8000)
    add("--admin-port", type=int, help="of /metrics, /drain and profiling, usually 9090 (default: on the HTTP port)")
    add("--device", choices=("cuda", "cpu"), required=True, help="never guessed: a GPU pod must not serve from its CPU")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    add("--tensor-parallel-size", type=_positive, default=1, help="GPUs that compute together; only 1 as yet")
    add("--max-running", type=_positive, default=DEFAULTS.max_running, help="sequences in one step")
    add("--max-tokens-per-step", type=_positive, default=DEFAULTS.max_tokens_per_step, help="bounds the time of a step")
    add("--max-waiting", type=_positive, default=DEFAULTS.max_waiting, help="beyond it requests are refused")
    add("--max-waiting-tokens", type=_positive, help="likewise, of their prompts and answers (default: any)")
    add("--max-wait", type=_seconds, default=DEFAULTS.max_wait, help="seconds that an urgent request waits at most")
    add("--offline-reserve", type=_share, default=DEFAULTS.offline_reserve, help="share of offline work, 0 to 0.5")
    add("--batching-window", type=_window, default=DEFAULTS.batching_window, help="seconds, 0 to 0.05")
    add("--tenants", type=Path, help="JSON file of what each tenant may have: docs/scheduling.md")
    add("--page-size", type=_positive, help="tokens of a KV page (16 on a CPU, 256 on a GPU)")
    add("--kv-cache-mib", type=_positive, help="memory of the KV cache (256 on a CPU, 85 %% of what is free on a GPU)")
    add("--cpu-threads", type=_positive, help="that compute on a CPU (default: one for a small model, else all)")
    add("--cpu-cores", type=_cores, help="cores that they may use, such as 0-3,8 (default: any)")
    add("--no-overlap", dest="overlap", action="store_false", help="plan a step only when the one before is done")
    add("--no-prefix-cache", dest="prefix_cache", action="store_false", help="compute again what prompts begin with")
    add("--plain-kernels", action="store_true", help="debugging: plain torch instead of compiled kernels")
    add("--check-gathers", action="store_true", help="debugging: fail when the device reads what nobody wrote")
    add("--batch-store", type=Path, metavar="DIR", help="keep /v1/files and /v1/batches there (default: refuse them)")
    add("--batch-file-mib", type=_positive, default=200, help="largest file of /v1/files (default %(default)s)")
    add("--batch-concurrency", type=_positive, default=64, help="requests of batches in the engine at once")
    access_options.register(parser)
    cache_options.register(parser)
    quantization_options.register(parser)
    speculative_options.register(parser)
    invariance_options.register(parser)
    lora_options.register(parser)
    gate_options.register(parser)
    add_telemetry_options(parser)
    add("--drain-timeout", type=_seconds, default=120.0, help="seconds that SIGTERM gives to running requests")
    add("--max-connection-age", type=_seconds, default=30.0, help="seconds until a gRPC connection must reconnect")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from headrace_server.process import serve  # noqa: PLC0415 - `headrace --help` must not wait for gRPC and aiohttp

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log_path = os.environ.get("HEADRACE_TERMINATION_LOG")  # noqa: TID251 - the command-line edge
    pod_uid = os.environ.get("POD_UID")  # noqa: TID251 - likewise
    termination_log = None if log_path is None else Path(log_path)
    try:
        return asyncio.run(serve(_config(options, termination_log, pod_uid)))
    except ModelRefused as refused:
        _report(termination_log, str(refused))
        return EX_CONFIG
    except OSError as taken:
        _report(termination_log, str(taken))
        return 1


def _config(options: argparse.Namespace, termination_log: Path | None, drain_token: str | None = None) -> ServerConfig:
    """Raises ModelRefused."""
    if options.tensor_parallel_size > 1:
        raise ModelRefused(
            f"--tensor-parallel-size={options.tensor_parallel_size}: this server computes on one device; set "
            "resources.gpus to 1, and choose a model that fits on one"
        )
    return ServerConfig(
        model=checkpoint(options.model, options.hub_cache),
        name=options.name,
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        device=options.device,
        dtype=options.dtype,
        drain_timeout=options.drain_timeout,
        max_connection_age=options.max_connection_age,
        termination_log=termination_log,
        engine=EngineConfig(
            max_running=options.max_running,
            max_tokens_per_step=options.max_tokens_per_step,
            max_waiting=options.max_waiting,
            max_waiting_tokens=options.max_waiting_tokens,
            max_wait=options.max_wait,
            offline_reserve=options.offline_reserve,
            batching_window=options.batching_window,
            tenants=Tenants() if options.tenants is None else _tenants(options.tenants),
            page_size=options.page_size or page_size_for(options.device),
            cpu_threads=options.cpu_threads,
            cpu_cores=options.cpu_cores,
            overlap=options.overlap,
            prefix_cache=options.prefix_cache,
            plain_kernels=options.plain_kernels,
            check_gathers=options.check_gathers,
            kv_cache_dtype=options.kv_cache_dtype,
            speculative=speculative_options.speculative_from(options),
            batch_invariant=invariance_options.batch_invariant_from(options),
            kv_cache_bytes=options.kv_cache_mib and options.kv_cache_mib * 2**20,
        ),
        batches=_batches(options),
        trust_tenant_header=options.trust_tenant_header,
        caches=cache_options.caches_from(options),
        access=access_options.access_from(options),
        admin_port=options.admin_port,
        drain_token=drain_token,
        task=options.task,
        quantization=quantization_options.quantization_from(options),
        lora=lora_options.lora_from(options),
        gate=gate_options.gate_from(options),
        telemetry=telemetry_from(options, os.environ),  # noqa: TID251 - the command-line edge
    )


def _batches(options: argparse.Namespace) -> BatchConfig | None:
    if options.batch_store is None:
        return None
    return BatchConfig(options.batch_store, options.batch_file_mib * 2**20, options.batch_concurrency)


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; must be at least 1")
    return value


def _cores(word: str) -> tuple[int, ...]:
    """0-3,8 -> 0, 1, 2, 3, 8."""
    cores: list[int] = []
    for part in word.split(","):
        if not re.fullmatch(r"\d+(-\d+)?", part):
            raise argparse.ArgumentTypeError(f"is {word}; must name cores, such as 0-3,8")
        first, *last = map(int, part.split("-"))
        cores += range(first, min((last or [first])[0], first + MOST_CORES) + 1)
    if not cores or len(cores) > MOST_CORES:
        raise argparse.ArgumentTypeError(f"is {word}; must name 1 to {MOST_CORES} cores")
    return tuple(dict.fromkeys(cores))


def _seconds(word: str) -> float:
    value = float(word)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0 seconds, and an end to them")
    return value


def _share(word: str) -> float:
    value = float(word)
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"is {word}; must be between 0 and 0.5, a share of the tokens")
    return value


def _window(word: str) -> float:
    value = float(word)
    if not 0 <= value <= 0.05:
        raise argparse.ArgumentTypeError(f"is {word}; must be between 0 and 0.05 seconds")
    return value


def _tenants(path: Path) -> Tenants:
    """Raises ModelRefused."""
    try:
        return tenants_from(json.loads(path.read_text()), f"--tenants {path}")
    except OSError as error:
        raise ModelRefused(f"--tenants {path}: {error.strerror}; name a JSON file that the server can read") from error
    except ValueError as error:
        raise ModelRefused(f"--tenants {path}: is no JSON: {error}") from error


def _report(termination_log: Path | None, message: str) -> None:
    line = " ".join(message.split())
    sys.stderr.write(f"headrace: {line}\n")
    if termination_log is not None:
        termination_log.write_text(line + "\n")  # shown by Kubernetes as the container's state


if __name__ == "__main__":
    command = argparse.ArgumentParser(prog="headrace serve", description=register.__doc__)
    register(command)
    sys.exit(run(command.parse_args()))
