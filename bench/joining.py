"""A long prompt joins those who decode: how much longer do they wait for their next token, and how long does it take?

    python bench/joining.py --model llama-144m --prompt 4096 --decoders 16 --json -

Chunks chosen by measured step times, as the server does, beside chunks of a constant size and beside the prompt alone:
one model, one run, in turns. A turn begins with an engine that has measured nothing yet.
"""

import argparse
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from comparison.headrace_side import load
from comparison.percentile import milliseconds
from comparison.report import add_json, report
from headrace_server.config import EngineConfig, ServerConfig
from headrace_server.engine.core import Core, News
from headrace_server.engine.pace import PrefillPace
from headrace_server.engine.scheduler import Scheduler
from headrace_server.engine.sequence import Sequence as Asked
from headrace_server.model.loading import Loaded
from headrace_server.request import Request

SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "scripture-5m"
PATIENCE = 300.0  # seconds that a phase of a turn may take
SETTLING = 8  # tokens of each decoder before the measured ones
MEASURED, CONSTANT, ALONE = "chunks by measured step times", "chunks of a constant size", "nobody decodes"


class ConstantPace(PrefillPace):
    """Chunked prefill as it is elsewhere: up to so many prompt tokens in every step, whatever they cost."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self._tokens = tokens

    def prefill_tokens(self, decoding: int, context: int) -> int:
        return self._tokens


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds."""

    before: tuple[float, ...]  # between two tokens of a decoder, of all of them
    joining: tuple[float, ...]  # likewise, those that end between the prompt's submission and its first token
    prefill: float  # from the prompt's submission to its first token
    steps: int  # over which the prompt was spread


class Watch:
    """When the tokens of each sequence came, and which steps held prompt tokens; told by the engine thread."""

    def __init__(self) -> None:
        self.times: dict[Asked, list[float]] = defaultdict(list)
        self.prefill_steps: list[float] = []
        self._news = threading.Condition()

    def tell(self, news: News) -> None:
        with self._news:
            if news.step is not None and news.step.prompt_tokens:
                self.prefill_steps.append(news.now)
            for sequence, _ in news.committed.tokens:
                self.times[sequence].append(news.now)
            self._news.notify_all()

    def until_each_has(self, tokens: int, sequences: Sequence[Asked]) -> None:
        with self._news:
            if not self._news.wait_for(lambda: all(len(self.times[one]) >= tokens for one in sequences), PATIENCE):
                raise TimeoutError(f"a sequence has no {tokens} tokens after {PATIENCE:.0f} s")


class Joining:
    """One model, and for each turn a new engine around it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._config = configured(options)
        self._model = loaded(options.model, options.dtype, self._config)
        self._dice = random.Random(0)
        context = self._model.limits.max_context
        if max(options.prompt, options.decoder_prompt + SETTLING + options.baseline) >= context:
            sys.exit(f"--prompt {options.prompt} or the decoders do not fit into the model's {context} tokens")

    def turn(self, pace: PrefillPace, decoders: int) -> Turn:
        scheduler = Scheduler(self._config, self._model.limits.kv_pages)
        scheduler.pace = pace
        watch = Watch()
        core = Core(self._model.runner, scheduler, time.perf_counter, watch.tell)
        engine = threading.Thread(target=core.run, args=(self._config.overlap,), daemon=True)
        engine.start()
        try:
            return self._joined(core, scheduler, watch, decoders)
        finally:
            core.stop()
            engine.join()

    def _joined(self, core: Core, scheduler: Scheduler, watch: Watch, decoders: int) -> Turn:
        options = self._options
        rest = self._model.limits.max_context - options.decoder_prompt  # they decode until the prompt is in
        decoding = [scheduler.prepared(self._request(options.decoder_prompt, rest)) for _ in range(decoders)]
        for sequence in decoding:
            core.submit(sequence)
        watch.until_each_has(SETTLING + options.baseline, decoding)
        long = scheduler.prepared(self._request(options.prompt, 1))
        joined = time.perf_counter()
        core.submit(long)
        watch.until_each_has(1, [long])
        done = watch.times[long][0]
        pairs = [pair for sequence in decoding for pair in pairwise(watch.times[sequence][SETTLING:])]
        return Turn(
            before=tuple(later - earlier for earlier, later in pairs if later <= joined),
            joining=tuple(later - earlier for earlier, later in pairs if joined < later <= done),
            prefill=done - joined,
            steps=sum(joined < at <= done for at in watch.prefill_steps),
        )

    def _request(self, prompt: int, new: int) -> Request:
        tokens = tuple(self._dice.randrange(1, self._model.limits.vocab_size) for _ in range(prompt))
        return Request("joining", tokens, new, arrived_at=time.perf_counter())


def main() -> None:
    options = parsed()
    bench = Joining(options)
    turns: dict[str, list[Turn]] = defaultdict(list)
    for number in range(options.rounds):
        turns[MEASURED].append(bench.turn(PrefillPace(options.max_tokens_per_step), options.decoders))
        turns[CONSTANT].append(bench.turn(ConstantPace(options.constant), options.decoders))
        turns[ALONE].append(bench.turn(PrefillPace(options.max_tokens_per_step), 0))
        print(f"round {number + 1} of {options.rounds} is done", file=sys.stderr, flush=True)
    work = {
        "model": options.model.resolve().name,
        "dtype": options.dtype,
        "prompt_tokens": options.prompt,
        "decoders": options.decoders,
        "max_tokens_per_step": options.max_tokens_per_step,
        "constant_chunk_tokens": options.constant,
        "rounds": options.rounds,
    }
    report(
        options.json, work, [row(name, found, options.prompt) for name, found in turns.items()], torch=torch.__version__
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=SHIPPED, help="checkpoint directory (default: the shipped one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--prompt", type=int, default=4096, help="tokens that join (default %(default)s)")
    add("--decoders", type=int, default=16, help="sequences that decode (default %(default)s)")
    add("--decoder-prompt", type=int, default=32, help="tokens of their prompts (default %(default)s)")
    add("--baseline", type=int, default=64, help="tokens of each before the prompt joins (default %(default)s)")
    add("--max-tokens-per-step", type=int, default=EngineConfig().max_tokens_per_step)
    add("--constant", type=int, default=512, help="prompt tokens in a step of the constant side (default %(default)s)")
    add("--kv-cache-mib", type=int, default=1024, help="memory of the KV cache (default %(default)s)")
    add("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    add_json(parser)
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        parser.error(f"--model {options.model}: no config.json there; bench/make_checkpoint.py writes a checkpoint")
    return options


def configured(options: argparse.Namespace) -> EngineConfig:
    return EngineConfig(
        max_running=max(options.decoders + 1, EngineConfig().max_running),
        max_tokens_per_step=options.max_tokens_per_step,
        kv_cache_bytes=options.kv_cache_mib * 2**20,
    )


def loaded(model: Path, dtype: str, engine: EngineConfig) -> Loaded:
    config = ServerConfig(
        model=model,
        name=model.name,
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        device="cpu",
        dtype=dtype,
        drain_timeout=0,
        max_connection_age=0,
        termination_log=None,
        engine=engine,
    )
    found = load(config)
    found.runner.warm_up()
    return found


def row(name: str, turns: Sequence[Turn], prompt: int) -> dict[str, Any]:
    """Latencies over the decoders of all turns; the ratio is that of the promise, and null when nobody decodes."""
    before = [gap for turn in turns for gap in turn.before]
    joining = [gap for turn in turns for gap in turn.joining]
    usual, worse = milliseconds(before, 99), milliseconds(joining, 99)
    prefill = sorted(turn.prefill for turn in turns)[len(turns) // 2]
    return {
        "name": name,
        "inter_token_before_p50_ms": milliseconds(before, 50),
        "inter_token_before_p99_ms": usual,
        "inter_token_joining_p50_ms": milliseconds(joining, 50),
        "inter_token_joining_p99_ms": worse,
        "inter_token_joining_max_ms": milliseconds(joining, 100),
        "p99_ratio": round(worse / usual, 2) if usual and worse else None,
        "prefill_s": round(prefill, 2),
        "prefill_tokens_per_s": round(prompt / prefill),
        "prefill_steps": [turn.steps for turn in turns],
    }


if __name__ == "__main__":
    main()
