"""The part of `headrace serve`'s command line about tokens that are guessed ahead. docs/speculation.md"""

import argparse

from headrace_server.config import SpeculativeConfig, SpeculativeMethod, Task
from headrace_server.errors import ModelRefused
from headrace_server.hub_cache import checkpoint

MOST_TOKENS = 16
DEFAULTS = SpeculativeConfig(SpeculativeMethod.NGRAM)


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tokens guessed ahead (docs/speculation.md)").add_argument
    add(
        "--speculative",
        type=SpeculativeMethod,
        choices=tuple(SpeculativeMethod),
        help="guess from the text itself, or with a draft model (default: not at all)",
    )
    add(
        "--draft-model",
        metavar="DIR",
        help="smaller model of the same vocabulary, as --model; with --speculative=draft",
    )
    add(
        "--speculative-tokens",
        type=_tokens,
        metavar="N",
        help=f"guessed for a request in a step, 1 to {MOST_TOKENS} (default {DEFAULTS.tokens})",
    )
    add(
        "--speculative-max-batch",
        type=_batch,
        metavar="N",
        help="guess only while at most so many requests decode (default: auto, while it is measured to be faster)",
    )


def speculative_from(options: argparse.Namespace) -> SpeculativeConfig | None:
    """Raises ModelRefused."""
    method: SpeculativeMethod | None = options.speculative
    if method is None:
        _refuse_the_rest(options)
        return None
    if options.task is not Task.GENERATE:
        raise ModelRefused(f"--speculative: --task={options.task} chooses no tokens; leave the option out")
    _check_draft_model(method, options.draft_model)
    return SpeculativeConfig(
        method=method,
        tokens=options.speculative_tokens or DEFAULTS.tokens,
        max_batch=options.speculative_max_batch or None,
        draft_model=options.draft_model and checkpoint(options.draft_model, options.hub_cache),
    )


def words(options: argparse.Namespace) -> list[str]:
    """The same options as words of a command line, defaults said, and without the folder of the draft model."""
    if options.speculative is None:
        return []
    return [
        f"--speculative={options.speculative}",
        f"--speculative-tokens={options.speculative_tokens or DEFAULTS.tokens}",
        f"--speculative-max-batch={options.speculative_max_batch or 'auto'}",
    ]


def _check_draft_model(method: SpeculativeMethod, draft_model: str | None) -> None:
    if method is SpeculativeMethod.DRAFT and draft_model is None:
        raise ModelRefused("--draft-model: --speculative=draft needs one; name its folder")
    if method is not SpeculativeMethod.DRAFT and draft_model is not None:
        raise ModelRefused(f"--draft-model: --speculative={method} uses none; leave it out, or say --speculative=draft")


def _refuse_the_rest(options: argparse.Namespace) -> None:
    said = {
        "--draft-model": options.draft_model,
        "--speculative-tokens": options.speculative_tokens,
        "--speculative-max-batch": options.speculative_max_batch,
    }
    for option, value in said.items():
        if value is not None:
            raise ModelRefused(f"{option}: nothing is guessed without --speculative; add it, or leave {option} out")


def _tokens(word: str) -> int:
    value = int(word)
    if not 1 <= value <= MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"is {value}; must be between 1 and {MOST_TOKENS}")
    return value


def _batch(word: str) -> int:
    """0: auto."""
    if word == "auto":
        return 0
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; must be at least 1, or auto")
    return value
