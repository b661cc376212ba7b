"""`headrace complete`: one prompt to a running server, its answer to the terminal as it comes."""

import argparse
import asyncio
import sys

import grpc

from headrace_server.client import failures
from headrace_server.client.connection import Connection, add_credential_options, connection_from
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc


def register(parser: argparse.ArgumentParser) -> None:
    """Stream one completion from a server to the terminal."""
    add = parser.add_argument
    add("prompt", help="the text to continue; - reads it from standard input")
    add("--target", default="127.0.0.1:50051", metavar="HOST:PORT", help="gRPC address (default %(default)s)")
    add_credential_options(parser)
    add("--max-new-tokens", type=int, help="default: the server's")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top-p", type=float)
    add("--top-k", type=int, default=0)
    add("--seed", type=int)
    add("--stop", action="append", default=[], help="end before this text; may be given several times")
    add("--timeout", type=float, default=300.0, help="seconds (default %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0, or 1 with gRPC's status on standard error."""
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    request = pb.GenerateRequest(
        text=prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=options.seed,
        stop=options.stop,
    )
    connection = connection_from(options)
    try:
        usage = asyncio.run(_print_answer(connection, options.target, request, options.timeout))
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"headrace: {failures.words(error)}\n")
        return 1
    sys.stderr.write(
        f"{usage.prompt_tokens} prompt + {usage.generated_tokens} new tokens, "
        f"queue wait {usage.queue_wait_seconds * 1000:.0f} ms, first token {usage.ttft_seconds * 1000:.0f} ms\n"
    )
    return 0


async def _print_answer(connection: Connection, target: str, request: pb.GenerateRequest, timeout: float) -> pb.Usage:
    usage = pb.Usage()
    async with connection.channel(target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        async for reply in stub.Generate(request, timeout=timeout, metadata=connection.metadata):
            sys.stdout.write(reply.text)
            sys.stdout.flush()
            if reply.HasField("usage"):
                usage = reply.usage
    sys.stdout.write("\n")
    return usage
