"""The load of the gate on a model that embeds: real doors, in front of vectors that nothing computes."""

from pathlib import Path

from embed_server import embed_server
from headrace_server.config import Task
from headrace_server.errors import Overloaded
from headrace_server.gate import play
from headrace_server.gate.server_process import Server


async def test_texts_are_cut_to_what_the_model_reads_and_their_waits_are_heard(tmp_path: Path) -> None:
    async with embed_server(tmp_path) as server:
        found = await play.peak(Server(server.grpc, server.http, Task.EMBED), 100.0, 0.1)
        assert (found.errors, found.refused, found.wait_p99) == (0, 0, 0.0)
        assert len(server.embedder.asked) == found.sent > 1
        assert max(len(str(ask.inputs[0])) for ask in server.embedder.asked) > server.embedder.facts.max_tokens


async def test_a_refused_text_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with embed_server(tmp_path) as server:
        server.embedder.failure = Overloaded("the queue is full", retry_after=2.0)
        found = await play.peak(Server(server.grpc, server.http, Task.EMBED), 100.0, 0.1)
        assert found.refused == found.sent > 1
        assert (found.errors, found.refused_without_pushback, found.wait_p99) == (0, 0, None)
