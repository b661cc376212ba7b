"""Offline work, asked for from a process of its own: whoever times online answers must not be busy with others.

python bench/overload/elsewhere.py ADDRESS AT_ONCE SECONDS PROMPT PROMPT ANSWER ANSWER     prints how many it got
"""

import asyncio
import random
import sys
from pathlib import Path

import grpc

sys.path.append(str(Path(__file__).parent.parent))
from headrace_server.rpc.pb import inference_pb2 as pb
from overload.callers import Callers, Size


async def asked_elsewhere(address: str, size: Size, at_once: int, seconds: float) -> int:
    """How many were answered. Raises RuntimeError when the process broke."""
    words = [address, at_once, seconds, *size.prompt, *size.answer]
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *map(str, words), stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"the callers of offline work ended with exit status {process.returncode}")
    return int(out)


async def main(address: str, at_once: int, seconds: float, size: Size) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        asked = await Callers(channel, size, random.Random(2)).closed(at_once, seconds, pb.PRIORITY_BATCH)
    print(sum(one.answered for one in asked))


if __name__ == "__main__":
    address, at_once, seconds, *lengths = sys.argv[1:]
    least, most, short, long = map(int, lengths)
    asyncio.run(main(address, int(at_once), float(seconds), Size((least, most), (short, long))))
