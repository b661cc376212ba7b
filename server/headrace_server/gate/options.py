"""With which options a model is measured, and whether it is served with the same."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace_server import quantization_options, speculative_options
from headrace_server.config import EngineConfig, KvCacheDtype, Task


def register(parser: argparse.ArgumentParser) -> None:
    """What a gate's load is played with, beside the options that it shares with `headrace evaluate`."""
    add = parser.add_argument_group("server, as of serve").add_argument
    add("--max-running", type=int, default=EngineConfig().max_running, help="(default %(default)s)")
    add("--kv-cache-mib", type=int)
    add("--no-prefix-cache", dest="prefix_cache", action="store_false")
    add("--hub-cache", type=Path, help="for --draft-model=hf://...")
    speculative_options.register(parser)


def serve_options(options: argparse.Namespace) -> list[str]:
    """Words for `headrace serve`, from its own command line or from that of `headrace gate run`.

    Without the draft model: it lies elsewhere on another machine, and is known by its files.
    """
    found = [f"--device={options.device}", f"--dtype={options.dtype}", f"--max-running={options.max_running}"]
    if options.kv_cache_mib is not None:
        found.append(f"--kv-cache-mib={options.kv_cache_mib}")
    if options.kv_cache_dtype is not KvCacheDtype.AUTO:
        found.append(f"--kv-cache-dtype={options.kv_cache_dtype}")
    how = quantization_options.quantization_from(options)
    if how.weights is not None:
        found += [f"--quantization={how.weights}", f"--quantization-group-size={how.group_size}"]
        found += [] if how.exclude is None else [f"--quantization-exclude={','.join(how.exclude)}"]
    found += [] if options.task is Task.GENERATE else [f"--task={options.task}"]
    found += [] if options.prefix_cache else ["--no-prefix-cache"]
    found += ["--batch-invariant"] if options.batch_invariant else []
    return found + speculative_options.words(options)


def differences(body: Mapping[str, Any], served: Sequence[str]) -> list[str]:
    """In what a report's measurement was another one than of a server with these options."""
    words = body.get("serve_options")
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        return ["it does not say with which options the model was measured"]
    before, now = _by_name(words), _by_name(served)
    return [
        f"it was measured {_said(name, before)}, and is served {_said(name, now)}"
        for name in sorted(before | now)
        if before.get(name) != now.get(name)
    ]


def _by_name(words: Sequence[str]) -> dict[str, str]:
    """As it stands in the list, by the option's name."""
    return {word.partition("=")[0]: word for word in words}


def _said(name: str, given: Mapping[str, str]) -> str:
    return f"with {given[name]}" if name in given else f"without {name}"
