"""The part of `headrace serve`'s command line about LoRA adapters. docs/lora.md"""

import argparse
import re
from collections import Counter
from pathlib import Path

from headrace_server.config import AdapterDirectory, LoraConfig, Task
from headrace_server.errors import ModelRefused
from headrace_server.hub_cache import checkpoint

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
DEFAULTS = LoraConfig()


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("LoRA adapters (docs/lora.md)").add_argument
    add(
        "--lora",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="serve the adapter in DIR, as PEFT saves it, to who asks for the model NAME; may be repeated",
    )
    add(
        "--max-lora-rank",
        type=int,
        default=DEFAULTS.most_rank,
        metavar="N",
        help="adapters of more ranks are refused (default %(default)s)",
    )


def lora_from(options: argparse.Namespace) -> LoraConfig:
    """Raises ModelRefused."""
    if options.lora and options.task is not Task.GENERATE:
        raise ModelRefused(f"--lora is for --task=generate, not {options.task}; leave it out")
    if options.max_lora_rank < 1:
        raise ModelRefused(f"--max-lora-rank={options.max_lora_rank}: must be at least 1")
    adapters = tuple(_adapter(word, options.hub_cache) for word in options.lora)
    twice = [name for name, times in Counter(each.name for each in adapters).items() if times > 1]
    if twice or options.name in (each.name for each in adapters):
        name = twice[0] if twice else options.name
        raise ModelRefused(f"--lora: the name {name!r} is taken; every adapter needs one of its own, not --name's")
    return LoraConfig(adapters, options.max_lora_rank)


def _adapter(word: str, hub_cache: Path | None) -> AdapterDirectory:
    name, _, place = word.partition("=")
    if not NAME.fullmatch(name) or not place:
        raise ModelRefused(
            f"--lora={word}: give NAME=DIR; a name has up to 128 letters, digits and . _ / -, and begins with no mark"
        )
    return AdapterDirectory(name, checkpoint(place, hub_cache))
