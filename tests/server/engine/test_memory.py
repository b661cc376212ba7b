"""What thousands of requests leave behind: nothing."""

import gc
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

from engines import LIMITS, Running, a_running_engine, until
from headrace_server.engine.sequence import Step
from leftovers import NOTHING, TOGETHER, answer_all, kept, requests
from runners import Counted, CountingRunner

SUPPORT = Path(__file__).parents[2] / "support"
ROOM = 2 * TOGETHER  # a tenant with more than its share of them inside gets three quarters


class Forgetful(CountingRunner):
    """Keeps no steps: what grows is the engine's."""

    def launch(self, step: Step) -> Counted:
        counted = super().launch(step)
        self.steps.clear()
        return counted


async def test_ten_thousand_requests_leave_nothing_behind() -> None:
    dice = random.Random(7)
    async with a_running_engine(Forgetful(), max_running=32, max_tokens_per_step=128, max_waiting=ROOM) as running:
        await answer_all(running.engine, requests(1000, dice))
        tracemalloc.start()
        await answer_all(running.engine, requests(1000, dice))
        before = traced()
        await answer_all(running.engine, requests(8000, dice))
        grown = traced() - before
        tracemalloc.stop()
        await until(lambda: kept(running.engine) == NOTHING)  # what is in flight for those who hung up ends soon
        assert_cache_is_bounded(running)
        assert running.metric("requests_received_total") == 10_000
        assert running.metric("requests_finished_total", outcome="cancelled") > 1000
        # One small object kept for each request would be more.
        assert grown < 100_000, f"{grown} bytes more after 8,000 requests"


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def assert_cache_is_bounded(running: Running) -> None:
    cache = running.engine._scheduler.cache
    assert cache is not None
    assert running.engine.load().kv_pages_free == LIMITS.kv_pages
    assert 0 < len(cache._entries) <= LIMITS.kv_pages
    assert len(cache._by_page) <= LIMITS.kv_pages


def test_a_real_model_holds_the_memory_that_it_held_after_its_first_requests() -> None:
    """In a process of its own: what other tests left behind comes and goes."""
    command = [sys.executable, "-m", "leftovers"]
    done = subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert grown < 4 * 2**20, f"{grown} bytes more after each 200 requests"
