"""bench/soak.py for seconds: half of the callers hang up, then the server is told to leave while streams run."""

from pathlib import Path

from served_process import serve_command, served
from soaking import leave, soak

MODEL = Path(__file__).parents[3] / "examples" / "models" / "scripture-5m"
STREAMS, TOKENS = 40, 150
KV_CACHE = 48  # MiB: enough for the streams, and less than is allowed to grow, for its pages are touched one by one
CLOSED_AFTER = 2.5  # seconds after SIGTERM


async def test_who_hangs_up_leaves_nothing_and_who_streams_loses_nothing_by_sigterm(tmp_path: Path) -> None:
    # Plain kernels: oneDNN keeps one for each number of rows that it has seen, and grows for minutes (docs/engine.md).
    flags = (f"--max-running={STREAMS}", "--drain-timeout=60", f"--kv-cache-mib={KV_CACHE}", "--plain-kernels")
    async with served(serve_command(MODEL, *flags), tmp_path) as server:
        await soak(server, 2.0, callers=16, seed=2)  # what is made once is made
        soaked = await soak(server, 5.0, callers=16)
        left = await leave(server, STREAMS, TOKENS, CLOSED_AFTER)

    assert {f"{door}, hung up" for door in ("gRPC", "HTTP", "SSE")} <= soaked.ends.keys()
    assert {end.split(", ")[1] for end in soaked.ends} <= {"hung up", "answered"}
    assert soaked.pages_free == soaked.pages_total
    first, last = soaked.thirds_mib
    assert last <= 1.05 * first, soaked.resident_mib
    assert (left.lost, left.complete) == ({}, STREAMS)
    assert (left.newcomer, left.exit_status) == ("UNAVAILABLE", 0)
