"""What guessing tokens ahead brings: tokens per second, guessed from the text itself and by the shipped draft model.

    python bench/speculation.py --json -

The shipped model goes on with golden texts, which it never saw. All sides are in one process and take turns, and all
must write the same tokens. One whose name ends in auto guesses while that is measured to be faster. docs/speculation.md
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comparison.report import add_json, report
from headrace_server.config import EngineConfig, ServerConfig, SpeculativeConfig, SpeculativeMethod
from headrace_server.engine.loop import Engine
from headrace_server.metrics import ServerMetrics
from headrace_server.model.loading import load_model
from headrace_server.request import Request, Sampling
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

MODELS = Path(__file__).parents[1] / "examples" / "models"
ALWAYS = 1000  # requests that decode: whatever is measured
GUESSES = ("speculative_guesses", "speculative_tokens", "speculative_accepted_tokens")


@dataclass(frozen=True, slots=True)
class Round:
    tokens: list[tuple[int, ...]]  # of each request
    seconds: float  # from the first token of all to the last one
    steps: float
    guesses: tuple[float, ...]  # in the order of GUESSES
    processor: float  # seconds of it that the whole took, prompts included: what others do beside moves it little

    @property
    def speed(self) -> float:
        """Tokens a second, without the prompts and the first tokens."""
        return (sum(map(len, self.tokens)) - len(self.tokens)) / self.seconds


@dataclass(frozen=True, slots=True)
class Side:
    """Its engine runs through all rounds: what it has learned about guessing it keeps."""

    name: str
    engine: Engine
    registry: CollectorRegistry

    async def measure(self, prompts: Sequence[tuple[int, ...]], output: int, sampling: Sampling) -> Round:
        before, began = self._counted(), time.process_time()
        found = await asyncio.gather(*(_read(self.engine, prompt, output, sampling) for prompt in prompts))
        processor = time.process_time() - began
        tokens, times = zip(*found, strict=True)
        steps, *guesses = (now - then for now, then in zip(self._counted(), before, strict=True))
        seconds = max(at[-1] for at in times) - min(at[0] for at in times)
        return Round([*tokens], seconds, steps, tuple(guesses), processor)

    def _counted(self) -> list[float]:
        names = ("step_seconds_count", *(f"{name}_total" for name in GUESSES))
        return [self.registry.get_sample_value(f"headrace_{name}") or 0.0 for name in names]


async def _read(
    engine: Engine, prompt: tuple[int, ...], output: int, sampling: Sampling
) -> tuple[tuple[int, ...], list[float]]:
    tokens, times = [], []
    request = Request("bench", prompt, output, time.monotonic(), sampling)
    async with aclosing(engine.submit(request)) as stream:
        async for token in stream:
            if token.id is not None:
                tokens.append(token.id)
                times.append(time.monotonic())
    return tuple(tokens), times


def main() -> None:
    options = parsed(sys.argv[1:])
    rows = asyncio.run(measured(options))
    work = {"model": options.model.name, "draft_model": options.draft_model.name, "output_tokens": options.output}
    more = {"prompt_tokens": options.prompt, "guessed_tokens": options.tokens, "temperature": options.temperature}
    report(options.json, work | more, rows, threads=torch.get_num_threads(), torch=torch.__version__)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=MODELS / "scripture-5m")
    add("--draft-model", type=Path, default=MODELS / "scripture-1m")
    add("--golden", type=Path, default=MODELS / "golden.jsonl", help="texts that are gone on with")
    add("--sides", type=lambda names: names.split(","), default=["ngram", "draft", "ngram-auto", "draft-auto"])
    add("--requests", type=lambda words: tuple(map(int, words.split(","))), default=(1, 4, 16), help="together")
    add("--prompt", type=int, default=128, help="tokens")
    add("--output", type=int, default=128, help="tokens")
    add("--tokens", type=int, default=4, help="guessed for a request in a step")
    add("--temperature", type=float, default=0.0)
    add("--rounds", type=int, default=5, help="turns of each side; the median counts")
    add_json(parser)
    return parser.parse_args(words)


async def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    sides = [a_side(name, options) for name in ("plain", *options.sides)]
    heartbeats = [asyncio.create_task(side.engine.run()) for side in sides]
    try:
        return [row for requests in options.requests for row in await _turns(sides, requests, options)]
    finally:
        for heartbeat in heartbeats:
            heartbeat.cancel()
        await asyncio.gather(*heartbeats, return_exceptions=True)


async def _turns(sides: Sequence[Side], requests: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    texts, sampling = golden(options), Sampling(temperature=options.temperature, seed=1)
    rounds: dict[str, list[Round]] = {side.name: [] for side in sides}
    for turn in range(options.rounds + 1):  # the first one warms
        prompts = [texts[(turn * requests + number) % len(texts)] for number in range(requests)]
        done = {side.name: await side.measure(prompts, options.output, sampling) for side in sides}
        for name, one in done.items():
            if one.tokens != done["plain"].tokens:
                sys.exit(f"{name}: other tokens than without guesses")
            rounds[name] += [one] if turn else []
    print(f"{requests} together: measured", file=sys.stderr, flush=True)
    return [row(name, requests, rounds) for name in rounds]


def a_side(name: str, options: argparse.Namespace) -> Side:
    method, _, how = name.partition("-")
    speculative = None
    if method != "plain":
        draft = options.draft_model if method == SpeculativeMethod.DRAFT else None
        most = None if how == "auto" else ALWAYS
        speculative = SpeculativeConfig(SpeculativeMethod(method), options.tokens, most, draft)
    config = ServerConfig(
        model=options.model,
        name=name,
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        device="cpu",
        dtype="float32",
        drain_timeout=0,
        max_connection_age=0,
        termination_log=None,
        engine=EngineConfig(speculative=speculative, prefix_cache=False),
    )
    model = load_model(config, lambda phase: None)
    model.runner.warm_up()
    registry = CollectorRegistry()
    return Side(name, Engine(model.runner, config.engine, model.limits, ServerMetrics(registry)), registry)


def golden(options: argparse.Namespace) -> list[tuple[int, ...]]:
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    texts = (json.loads(line)["text"] for line in options.golden.read_text().splitlines())
    return [ids for text in texts if len(ids := tuple(tokenizer.encode(text).ids[: options.prompt])) == options.prompt]


def row(name: str, requests: int, rounds: dict[str, list[Round]]) -> dict[str, Any]:
    own, plain = rounds[name], rounds["plain"]
    guesses, guessed, accepted = (sum(each) for each in zip(*(one.guesses for one in own), strict=True))
    times = [one.speed / other.speed for one, other in zip(own, plain, strict=True)]
    return {
        "name": name,
        "requests": requests,
        "output_tokens_per_s": round(median(one.speed for one in own), 1),
        "times_plain": round(median(times), 2),
        "times_plain_lowest": round(min(times), 2),
        "times_plain_highest": round(max(times), 2),
        "processor_times_plain": round(
            median(other.processor / one.processor for one, other in zip(own, plain, strict=True)), 2
        ),
        "steps": round(sum(one.steps for one in own) / len(own), 1),
        "acceptance": round(accepted / guessed, 3) if guessed else None,
        "accepted_per_guess": round(accepted / guesses, 2) if guesses else None,
    }


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
