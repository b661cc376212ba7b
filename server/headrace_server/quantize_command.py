"""`headrace quantize`: makes a checkpoint smaller, once, instead of at each start of a server. docs/quantisation.md"""

import argparse
import sys
from pathlib import Path

from headrace_server.config import QuantizationConfig, WeightFormat
from headrace_server.errors import ModelRefused
from headrace_server.model.quantisation import EXCLUDED, quantisation

DEFAULTS = QuantizationConfig()
MIB = 2**20


def register(parser: argparse.ArgumentParser) -> None:
    """Convert a checkpoint's weights to int8 or int4."""
    add = parser.add_argument
    add("source", type=Path, metavar="IN", help="folder of config.json, tokenizer.json, *.safetensors")
    add("target", type=Path, metavar="OUT", help="folder to be made")
    add("--weights", type=WeightFormat, choices=tuple(WeightFormat), required=True)
    add("--group-size", type=int, default=DEFAULTS.group_size, help="weights of int4 that share a scale: 32 to 256")
    add(
        "--exclude",
        metavar="NAMES",
        help="what stays as it is, such as lm_head,model.layers.0 (default: lm_head with int4); '' for nothing",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from headrace_server.model.conversion import convert  # noqa: PLC0415 - `headrace --help` must not wait for torch

    names = options.exclude
    excluded = EXCLUDED[options.weights] if names is None else [name for name in names.split(",") if name]
    try:
        how = quantisation(options.weights, options.group_size, excluded)
        done = convert(options.source, options.target, how, _tell)
    except (ModelRefused, OSError) as refused:
        _tell(f"headrace quantize: {refused}")
        return 1
    _tell(f"{options.target}: {done.bytes_after / MIB:.1f} MiB of weights, of {done.bytes_before / MIB:.1f} MiB")
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
