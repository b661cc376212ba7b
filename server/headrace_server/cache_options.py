"""The part of `headrace serve`'s command line about caches of answers and embeddings. docs/caches.md"""

import argparse

from headrace_server.config import CacheConfig

DEFAULTS = CacheConfig()
MIB = 2**20


def register(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("caches in front of the engine (docs/caches.md)").add_argument
    add(
        "--response-cache-mib",
        type=_positive,
        metavar="MIB",
        help="keep whole answers that would come out the same again",
    )
    add(
        "--response-cache-sampled",
        action="store_true",
        help="keep answers, too, that another try would make differently",
    )
    add("--embedding-cache-mib", type=_positive, metavar="MIB", help="keep the vectors of texts")
    add(
        "--cache-ttl",
        type=_seconds,
        default=DEFAULTS.ttl,
        help="seconds that they are kept at most (default %(default)g)",
    )


def caches_from(options: argparse.Namespace) -> CacheConfig:
    return CacheConfig(
        response_bytes=options.response_cache_mib and options.response_cache_mib * MIB,
        embedding_bytes=options.embedding_cache_mib and options.embedding_cache_mib * MIB,
        ttl=options.cache_ttl,
        sampled=options.response_cache_sampled,
    )


def _seconds(word: str) -> float:
    value = float(word)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {word}; must be above 0 seconds")
    return value


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; must be at least 1")
    return value
