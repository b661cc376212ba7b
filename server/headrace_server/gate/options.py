"""With which options a model is measured, and whether it is served with the same."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from headrace_server import quantization_options
from headrace_server.config import KvCacheDtype


def serve_options(options: argparse.Namespace) -> list[str]:
    """Words for `headrace serve`, from its own command line or from that of `headrace gate run`."""
    found = [f"--device={options.device}", f"--dtype={options.dtype}", f"--max-running={options.max_running}"]
    if options.kv_cache_mib is not None:
        found.append(f"--kv-cache-mib={options.kv_cache_mib}")
    if options.kv_cache_dtype is not KvCacheDtype.AUTO:
        found.append(f"--kv-cache-dtype={options.kv_cache_dtype}")
    how = quantization_options.quantization_from(options)
    if how.weights is not None:
        found += [f"--quantization={how.weights}", f"--quantization-group-size={how.group_size}"]
        found += [] if how.exclude is None else [f"--quantization-exclude={','.join(how.exclude)}"]
    return found


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
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _said(name: str, given: Mapping[str, str]) -> str:
    return f"with {name}={given[name]}" if name in given else f"without {name}"
