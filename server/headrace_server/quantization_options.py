"""The part of `headrace serve`'s command line about weights in fewer bits. docs/quantisation.md"""

import argparse

from headrace_server.config import KvCacheDtype, QuantizationConfig, Task, WeightFormat
from headrace_server.errors import ModelRefused

DEFAULTS = QuantizationConfig()


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("weights in fewer bits (docs/quantisation.md)").add_argument
    add(
        "--quantization",
        type=WeightFormat,
        choices=tuple(WeightFormat),
        help="keep the matrices in so many bits (default: as the checkpoint has them)",
    )
    add(
        "--kv-cache-dtype",
        type=KvCacheDtype,
        choices=tuple(KvCacheDtype),
        default=KvCacheDtype.AUTO,
        help="keep keys and values in so many bits, a scale for each token and head (default: as --dtype)",
    )
    add(
        "--quantization-group-size",
        type=int,
        default=DEFAULTS.group_size,
        metavar="N",
        help="weights of int4 that share a scale: 32, 64, 128 or 256 (default %(default)s)",
    )
    add(
        "--quantization-exclude",
        metavar="NAMES",
        help="what stays as it is, such as lm_head,model.layers.0 (default: lm_head with int4); '' for nothing",
    )


def quantization_from(options: argparse.Namespace) -> QuantizationConfig:
    """Raises ModelRefused."""
    names = options.quantization_exclude
    if options.quantization is not None and options.task is not Task.GENERATE:
        raise ModelRefused(
            f"--quantization: --task={options.task} computes in float32, bfloat16 or float16; leave the option out"
        )
    return QuantizationConfig(
        weights=options.quantization,
        group_size=options.quantization_group_size,
        exclude=None if names is None else tuple(name for name in names.split(",") if name),
    )


def words(options: argparse.Namespace) -> list[str]:
    """The same options as words of a command line."""
    given = {
        "--quantization": options.quantization,
        "--kv-cache-dtype": options.kv_cache_dtype,
        "--quantization-group-size": options.quantization_group_size,
        "--quantization-exclude": options.quantization_exclude,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None]
