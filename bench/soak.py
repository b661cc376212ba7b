"""Minutes of callers of whom half hang up, then SIGTERM under a hundred streams: memory, KV pages, and lost answers.

    python bench/soak.py --minutes 10 --json -

A real server process on the CPU, asked over gRPC, HTTP and server-sent events. Exits with 1 when the memory of the last
third is more than that of the first, a page is missing, or a stream was lost.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from comparison.report import add_json, report
from served_process import serve_command, served
from soaking import Leaving, Soak, leave, soak

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
CALLERS, STREAMS = 32, 100
TOKENS = 150  # of each stream: they run longer than a drain waits before it refuses
CLOSED_AFTER = 3.5  # seconds after SIGTERM
GRACE = 120.0  # seconds
FLAT = 1.03  # times the memory of the first third
# A KV cache that is touched whole in the first seconds: its pages come one by one, and would look like a leak.
FLAGS = (f"--max-running={STREAMS}", f"--drain-timeout={GRACE}", "--kv-cache-mib=128")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of hanging up (default %(default)s)")
    parser.add_argument("--callers", type=int, default=CALLERS, help="at a time (default %(default)s)")
    parser.add_argument("--plain-kernels", action="store_true", help="plain torch: nothing that oneDNN keeps")
    add_json(parser)
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error(f"argument --minutes: is {options.minutes}; must be more than 0")
    if options.callers < 1:
        parser.error(f"argument --callers: is {options.callers}; must be at least 1")
    kernels = ("--plain-kernels",) if options.plain_kernels else ()
    soaked, left = asyncio.run(measured(options.model, 60 * options.minutes, options.callers, kernels))
    work = {
        "model": options.model.name, "minutes": options.minutes, "callers": options.callers, "streams": STREAMS,
        "kernels": "plain" if options.plain_kernels else "compiled",
    }  # fmt: skip
    report(options.json, work, [*rows(soaked, left)], python=sys.version)
    sys.exit(not holds(soaked, left))


async def measured(model: Path, seconds: float, callers: int, flags: tuple[str, ...]) -> tuple[Soak, Leaving]:
    with tempfile.TemporaryDirectory() as directory:
        async with served(serve_command(model, *FLAGS, *flags), Path(directory)) as server:
            await soak(server, min(30.0, seconds / 4), callers, seed=2)  # what is made once is made
            soaked = await soak(server, seconds, callers)
            return soaked, await leave(server, STREAMS, TOKENS, CLOSED_AFTER)


def rows(soaked: Soak, left: Leaving) -> tuple[dict[str, Any], dict[str, Any]]:
    first, last = soaked.thirds_mib
    return (
        {
            "name": "half hang up", "ends": soaked.ends, "resident_mib_first_third": round(first, 1),
            "resident_mib_last_third": round(last, 1), "kv_pages_free": soaked.pages_free,
            "kv_pages_total": soaked.pages_total,
        },
        {
            "name": "SIGTERM", "complete": left.complete, "lost": left.lost, "newcomer": left.newcomer,
            "exit_status": left.exit_status, "seconds": round(left.seconds, 2),
        },
    )  # fmt: skip


def holds(soaked: Soak, left: Leaving) -> bool:
    first, last = soaked.thirds_mib
    is_clean = last <= FLAT * first and soaked.pages_free == soaked.pages_total
    return is_clean and left.complete == STREAMS and left.newcomer == "UNAVAILABLE" and left.exit_status == 0


if __name__ == "__main__":
    main()
