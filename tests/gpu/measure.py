"""Times the kernels on this machine's GPU against the bytes they must move: python tests/gpu/measure.py

Sizes are Llama 3.1 8B's, 32 sequences. The floor is bytes over the bandwidth of a large copy, measured in the same run.
Inputs are random; attention's pages are larger than the L2 cache, and the small kernels' are not: they are timed warm.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "server"), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
from headrace_server.model.kernels.add_rms_norm import add_rms_norm  # noqa: E402
from headrace_server.model.kernels.paged_attention import attend_paged  # noqa: E402
from headrace_server.model.kernels.rope_write import Places, rope_write  # noqa: E402
from headrace_server.model.kernels.silu_mul import silu_mul  # noqa: E402
from headrace_server.model.kernels.varlen_attention import attend_varlen  # noqa: E402
from kernel_cases import Sequences, a_step, a_tensor  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from triton.testing import do_bench, do_bench_cudagraph  # noqa: E402

SEQUENCES = 32
CONTEXTS = (1024, 4096, 8192)
HALF = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Timed:
    name: str
    call: Callable[[], object]
    moved: int  # bytes, each read or written once


def main() -> None:
    bandwidth = _bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: a copy moves {bandwidth / 1e9:.2f} TB/s")
    for timed in (*_small(), *_attention()):
        took = _milliseconds(timed.call, do_bench_cudagraph)
        floor = timed.moved / bandwidth
        print(f"{timed.name:50} {1000 * took:9.1f} us, floor {1000 * floor:9.1f} us, {100 * floor / took:5.1f} %")


def _bandwidth() -> float:
    """Bytes read and written per millisecond."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / _milliseconds(lambda: target.copy_(source), do_bench)


def _small() -> Iterator[Timed]:
    x, residual, weight = _random(SEQUENCES, 4096), _random(SEQUENCES, 4096), _random(4096)
    yield Timed("add_rms_norm", lambda: add_rms_norm(x, residual, weight, 1e-5), 2 * 4 * x.numel())
    gate_up = _random(SEQUENCES, 2 * 14336)
    yield Timed("silu_mul", lambda: silu_mul(gate_up), 3 * gate_up.numel())
    projected, keys, values = _random(SEQUENCES, 48, 128), _random(64, 256, 8, 128), _random(64, 256, 8, 128)
    angles = torch.rand(8192, 64, device="cuda")
    each_one = torch.arange(SEQUENCES, dtype=torch.int32, device="cuda")
    places = Places(each_one, 256 * each_one, angles.cos(), angles.sin())
    yield Timed("rope_write", lambda: rope_write(projected, places, keys, values, None), 2 * 2 * projected.numel())


def _attention() -> Iterator[Timed]:
    """torch's last: an older torch, which has no pages, ends the script there."""
    steps = {
        context: a_step(Sequences((1,) * SEQUENCES, (context,) * SEQUENCES, 32, 8, 128, 256), HALF, "cuda")
        for context in CONTEXTS
    }
    moved = {context: 2 * 2 * SEQUENCES * context * 8 * 128 for context in CONTEXTS}
    for context, step in steps.items():
        yield Timed(f"attend_paged, {context} keys each", partial(attend_paged, *step), moved[context])
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        for context, step in steps.items():
            name = f"attend_varlen by {backend.name}, {context} keys each"
            yield Timed(name, partial(_by, backend, step), moved[context])


def _by(backend: SDPBackend, step: tuple[Tensor, ...]) -> Tensor:
    with sdpa_kernel(backend):
        return attend_varlen(*step)  # type: ignore[arg-type] # a_step's values are attend_varlen's arguments


def _random(*shape: int) -> Tensor:
    return a_tensor(*shape, dtype=HALF, device="cuda")


def _milliseconds(call: Callable[[], object], bench: Callable[..., float]) -> float:
    return bench(call, return_mode="median")


if __name__ == "__main__":
    main()
