"""The server's settings, read once from the command line. Each one says what it costs or protects."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from headrace_server.tenants import Tenants

PAGE_SIZES = {"cpu": 16, "cuda": 256}  # 256: what every attention kernel of torch for CUDA accepts


def page_size_for(device: str) -> int:
    """What a page of the KV cache holds, in tokens, if nobody says otherwise; `device` as in ServerConfig."""
    return PAGE_SIZES[device]


class KvCacheDtype(StrEnum):
    """What keys and values are kept in."""

    AUTO = "auto"  # the model's dtype
    INT8 = "int8"  # a scale for each token and head: nearly twice the tokens. docs/quantisation.md


class SpeculativeMethod(StrEnum):
    """Who guesses the next tokens."""

    NGRAM = "ngram"  # the text itself: what followed the same words before
    DRAFT = "draft"  # a smaller model of the same vocabulary


@dataclass(frozen=True, slots=True)
class SpeculativeConfig:
    """Tokens are guessed ahead and checked together: the same answers in fewer steps. docs/speculation.md"""

    method: SpeculativeMethod
    tokens: int = 4  # guessed for one sequence in one step: more save more steps, and more of them are wrong
    max_batch: int | None = None  # sequences that decode, beyond which nothing is guessed; None = as is measured
    draft_model: Path | None = None  # checkpoint directory; set with DRAFT


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the scheduler and the KV cache are allowed to use."""

    max_running: int = 64  # sequences in one step: more raises throughput and every token's latency
    max_tokens_per_step: int = 2048  # bounds the time of one step, and so a running client's inter-token latency
    max_waiting: int = 1024  # admitted but not yet running; beyond it a caller is told to come back
    max_waiting_tokens: int | None = None  # likewise, of prompts and answers; None = as many as those requests have
    # Seconds that the most urgent class waits at most, the others longer by their weight; who would let the queue grow
    # beyond what drains in half of it is told to come back. docs/scheduling.md
    max_wait: float = 60.0
    offline_reserve: float = 0.1  # share of the tokens that offline work gets while others want all of them
    batching_window: float = 0.0  # seconds that an idle engine waits at most for others to come, when they come often
    tenants: Tenants = field(default_factory=Tenants)
    page_size: int = 16  # tokens a KV page holds: small wastes less, large copies faster; see page_size_for
    cpu_threads: int | None = None  # that compute; None = one for a small model, else OMP_NUM_THREADS or all cores
    cpu_cores: tuple[int, ...] | None = None  # on which they may run; None = any
    overlap: bool = True  # plan the next step while the device computes; off: one after the other, to compare
    plain_kernels: bool = False  # debugging: plain torch, which every faster kernel is compared with
    prefix_cache: bool = True  # keep the KV of full pages for prompts of the same tenant that begin alike
    check_gathers: bool = False  # debugging: prove that nothing is read on the device before it was written
    kv_cache_bytes: int | None = None  # memory of the KV cache; None = 256 MiB on a CPU, most of what is free on a GPU
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    speculative: SpeculativeConfig | None = None  # None: no token is guessed
    batch_invariant: bool = False  # no bit of an answer depends on its neighbours; slower. docs/batch-invariance.md


class WeightFormat(StrEnum):
    """What weights can be kept in, besides the dtype."""

    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """Weights in fewer bits: less memory, more tokens per second, answers a little worse. docs/quantisation.md"""

    weights: WeightFormat | None = None  # None: as the checkpoint has them
    group_size: int = 64  # weights of INT4 that share a scale: fewer are better answers, more are less memory
    exclude: tuple[str, ...] | None = None  # lm_head, model.layers.N, kept in the dtype; None: lm_head with INT4


@dataclass(frozen=True, slots=True)
class AdapterDirectory:
    """A LoRA adapter: docs/lora.md"""

    name: str  # that clients send as the model's
    directory: Path  # adapter_config.json and adapter_model.safetensors, as PEFT saves them


@dataclass(frozen=True, slots=True)
class LoraConfig:
    adapters: tuple[AdapterDirectory, ...] = ()
    most_rank: int = 64  # refused beyond: each rank of each adapter costs memory, and time in every step that has it

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.adapters)


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Where /v1/files and /v1/batches keep what they are given, and how much of it runs at once."""

    directory: Path  # jobs last as long as this does: on a volume, not on the container's own disk
    largest_file: int = 200 * 2**20  # bytes of one upload, as OpenAI's
    concurrency: int = 64  # offline requests in the engine at once; more than run together only wait there


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is told about the serving."""

    otlp_endpoint: str | None = None  # collector of traces, http://HOST:4317; None: no traces are made
    trace_share: float = 1.0  # of the requests whose caller is part of no trace; the others' callers have decided
    profile_dir: Path | None = None  # where POST /debug/profile writes; None: it is refused
    gpu_hour_price: float | None = None  # of this replica's device, in whatever money; None: no cost is shown
    peak_flops: float | None = None  # operations a second of the device at the dtype; None: by its name, if known
    peak_bytes: float | None = None  # a second, of the device's memory; likewise


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What is kept of answers, in front of the engine. docs/caches.md"""

    response_bytes: int | None = None  # of whole answers; None: none is kept
    embedding_bytes: int | None = None  # of texts' vectors; None: none is kept
    ttl: float = 3600.0  # seconds from when it was computed
    sampled: bool = False  # True: answers, too, that another try would make differently


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """All PEM. Read again when they change."""

    certificate: Path  # the chain, the server's own first
    key: Path
    client_ca: Path | None = None  # every client has to show a certificate of it; None: none is asked for
    client_crl: Path | None = None  # of certificates that count no more; needs `client_ca`


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may ask, and over what. docs/security.md"""

    api_keys: Path | None = None  # rpc/api_keys.py; None: no key is asked for
    tls: TlsFiles | None = None  # None: plain text

    @property
    def authenticates(self) -> bool:
        return self.api_keys is not None or (self.tls is not None and self.tls.client_ca is not None)


class Task(StrEnum):
    """What a model is served for."""

    GENERATE = "generate"
    EMBED = "embed"  # docs/embeddings.md
    RERANK = "rerank"  # with a cross-encoder; docs/embeddings.md


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What the release gate must have said of the model before it is loaded. docs/gate.md"""

    report: Path  # of `headrace gate run`
    public_keys: tuple[str, ...]  # Ed25519, base64 of the DER; one's owner must have signed it; none: nobody must
    options: tuple[str, ...]  # words for `headrace serve` with which the model must have been measured


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One server process."""

    model: Path  # checkpoint directory: config.json, tokenizer.json, *.safetensors
    name: str  # the model name that clients send
    host: str
    grpc_port: int
    http_port: int
    device: str  # cuda | cpu; never guessed, so that a GPU pod cannot quietly serve from its CPU
    dtype: str  # float32 | bfloat16 | float16
    drain_timeout: float  # seconds that a SIGTERM gives to running requests
    max_connection_age: float  # seconds until a gRPC connection is told to reconnect, so that new replicas get work
    termination_log: Path | None  # a fatal start-up error is written here, where Kubernetes looks for it
    engine: EngineConfig
    batches: BatchConfig | None = None  # None: /v1/files and /v1/batches are refused, so that nothing is kept by halves
    trust_tenant_header: bool = False  # True only behind a gateway that authenticates, and sets or removes the header
    caches: CacheConfig = field(default_factory=CacheConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    admin_port: int | None = None  # of /metrics, /drain and what else acts; None = they are on http_port
    drain_token: str | None = None  # who sends it may have this server drained; None = only a signal may
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    task: Task = Task.GENERATE
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    gate: GateConfig | None = None  # None: any model is loaded
