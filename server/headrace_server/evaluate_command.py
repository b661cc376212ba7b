"""`headrace evaluate`: has a model become worse than another one, by how much, and is that too much?"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_server import harness, invariance_options, quantization_options, task_scores
from headrace_server.config import EngineConfig, QuantizationConfig, ServerConfig, Task, page_size_for
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import (
    BadFile,
    EmbeddingQuality,
    Golden,
    Quality,
    Thresholds,
    read_golden,
    read_thresholds,
    regressions,
)
from headrace_server.harness import Harness
from headrace_server.report_file import check_place, leave
from headrace_server.rpc.text import Text, load_text
from headrace_server.task_scores import Compared

if TYPE_CHECKING:
    from headrace_server.model.quality.answers import Judged

REGRESSION, CANNOT = 1, 2  # exit statuses
DTYPES = ("float32", "bfloat16", "float16")
TASKS = "task_drop"  # the threshold of their scores
TOKENS_PER_STEP = 512  # more only takes more memory


def register(parser: argparse.ArgumentParser) -> None:
    """Compare a model's answers with another's on golden texts; exit 1 when they are worse."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the model in question")
    add("--against", type=Path, help="folder of the model that it is compared with (default: the same, as it is)")
    add("--golden", type=Path, required=True, help='lines of {"text": ...} or {"prompt": ..., "answer": ...}')
    add("--thresholds", type=Path, help="JSON object of what is allowed (default: docs/quantisation.md)")
    add("--task", type=Task, choices=(Task.GENERATE, Task.EMBED), default=Task.GENERATE)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=DTYPES, default="float32", help="of the model in question (default %(default)s)")
    add("--against-dtype", choices=DTYPES, default="float32", help="of the other one (default %(default)s)")
    add("--recall-at", type=_positive, default=10, metavar="K", help="neighbours, with --task=embed")
    add("--json", metavar="FILE", help="write the result there as JSON; - is stdout (default: a table)")
    quantization_options.register(parser)
    invariance_options.register(parser)
    add("--tasks", metavar="NAMES", help="compare scores of lm-eval's tasks, too: names with commas (needs lm-eval)")
    add("--task-files", type=Path, metavar="DIR", help="folder of further tasks")
    add("--lm-eval", metavar="PROGRAM", help="lm-eval of an environment of its own (default: the one on the PATH)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1: worse than the thresholds allow; 2: could not be compared."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        check_place(options.json)
        allowed = Thresholds() if options.thresholds is None else read_thresholds(options.thresholds)
        golden = read_golden(options.golden)
        asks = harness_of(options)
        found = evaluated(options, golden, _tell)
        tasks = () if asks is None else scores_of(options, asks)
        worse = regressions(found, allowed) + task_scores.regressions(tasks, allowed.task_drop)
        _report(options, found, allowed, worse, tasks)
    except (BadFile, ModelRefused, OSError) as refused:
        _tell(f"headrace evaluate: {refused}")
        return CANNOT
    return REGRESSION if worse else 0


def evaluated(
    options: argparse.Namespace, golden: tuple[Golden, ...], tell: Callable[[str], None]
) -> Quality | EmbeddingQuality:
    """Raises ModelRefused, BadFile."""
    ours = _config(options, options.model, options.dtype, quantization_options.quantization_from(options))
    kept, apart = options.kv_cache_dtype, invariance_options.batch_invariant_from(options)
    ours = replace(ours, engine=replace(ours.engine, kv_cache_dtype=kept, batch_invariant=apart))
    theirs = _config(options, options.against or options.model, options.against_dtype, QuantizationConfig())
    if options.task is Task.EMBED:
        from headrace_server.model.quality import embeddings  # noqa: PLC0415 - `headrace --help` waits for no torch

        return embeddings.compared(ours, theirs, [one.prompt + one.answer for one in golden], options.recall_at, tell)
    from headrace_server.model.quality import answers  # noqa: PLC0415 - likewise

    text, other = load_text(ours.model), load_text(theirs.model)

    def texts(most: int, end: int | None) -> "list[Judged]":
        for one in golden:
            if text.encode(one.prompt + one.answer) != other.encode(one.prompt + one.answer):
                raise ModelRefused(
                    f"{ours.model} and {theirs.model} have different tokenizers: what they think of a token cannot be "
                    "compared"
                )
        found = answers.judged(golden, lambda one: tokenised(text, one, end), most)
        if not found:
            raise BadFile(f"{options.golden}: no token of an answer can be judged")
        return found

    return answers.compared(ours, theirs, texts, tell)


def tokenised(text: Text, golden: Golden, end: int | None) -> tuple[tuple[int, ...], int]:
    """Token ids, and the first of them that counts. `end`: the token that ends a text.

    A text without a prompt is a whole document: it begins after an end and is followed by one. A token that covers the
    end of a prompt and the beginning of its answer belongs to the prompt.
    """
    whole = golden.prompt + golden.answer
    ids = text.encode(whole)
    if not golden.prompt and end is not None:
        plain = text.encode_plainly(whole)
        return ((*ids, end), len(ids) - len(plain)) if ids != plain else ((end, *ids, end), 1)
    starts = [0, *accumulate(len(part) for part in text.decode_each(ids))]
    behind = [index for index in range(len(ids)) if starts[index] >= len(golden.prompt) and index > 0]
    return ids, behind[0] if behind else len(ids)


def _config(options: argparse.Namespace, model: Path, dtype: str, quantization: QuantizationConfig) -> ServerConfig:
    return ServerConfig(
        model=model,
        name=model.name,
        host="",
        grpc_port=0,
        http_port=0,
        device=options.device,
        dtype=dtype,
        drain_timeout=0.0,
        max_connection_age=0.0,
        termination_log=None,
        engine=EngineConfig(
            max_running=1, max_tokens_per_step=TOKENS_PER_STEP, page_size=page_size_for(options.device)
        ),
        task=options.task,
        quantization=quantization,
    )


def harness_of(options: argparse.Namespace) -> Harness | None:
    """Looked for before the minutes that the rest takes. Raises BadFile."""
    if options.tasks is None:
        return None
    if options.task is not Task.GENERATE:
        raise BadFile(f"--tasks: a model with --task={options.task} answers none of them; leave the option out")
    return harness.found(options.lm_eval, options.tasks, options.task_files)


def scores_of(options: argparse.Namespace, asks: Harness) -> tuple[Compared, ...]:
    """Raises ModelRefused, BadFile."""
    ours = [*_serve(options, options.model, options.dtype), *quantization_options.words(options)]
    ours += ["--batch-invariant"] if options.batch_invariant else []
    theirs = _serve(options, options.against or options.model, options.against_dtype)
    try:
        return task_scores.compared(asks.scores(ours, _tell), asks.scores(theirs, _tell))
    except ValueError as error:
        raise BadFile(f"--tasks={options.tasks}: {error}") from error


def _serve(options: argparse.Namespace, model: Path, dtype: str) -> list[str]:
    return [f"--model={model}", f"--device={options.device}", f"--dtype={dtype}"]


def _report(
    options: argparse.Namespace,
    found: Quality | EmbeddingQuality,
    allowed: Thresholds,
    worse: list[str],
    tasks: tuple[Compared, ...],
) -> None:
    if options.json is None:
        lines = [f"{name:<20} {value:.6g}" for name, value in asdict(found).items()] + task_scores.as_lines(tasks)
        verdict = worse or ["within the thresholds"]
        sys.stdout.write("\n".join([*lines, *verdict, ""]))
        return
    result = {
        "model": str(options.model),
        "against": str(options.against or options.model),
        "golden": str(options.golden),
        "quality": asdict(found),
        "thresholds": held_to(allowed, found, tasks),
        "regressions": worse,
        **({"tasks": task_scores.as_json(tasks)} if tasks else {}),
    }
    leave(options.json, json.dumps(result, indent=2) + "\n")


def held_to(allowed: Thresholds, found: Quality | EmbeddingQuality, tasks: tuple[Compared, ...]) -> dict[str, float]:
    """The thresholds of what was measured."""
    return {name: value for name, value in asdict(allowed).items() if hasattr(found, name) or (tasks and name == TASKS)}


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; must be at least 1")
    return value


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
