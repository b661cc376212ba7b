"""Length buckets of prompts and answers: batches, caches and prices depend on what shapes of requests come."""

from bisect import bisect_left

ENDS = (32, 128, 512, 2048, 8192, 32768)  # tokens, each the last of its bucket
NAMES = tuple(f"{first}-{last}" for first, last in zip((0, *(end + 1 for end in ENDS)), ENDS, strict=False))
LONGEST = f"{ENDS[-1] + 1}+"


def length_bucket(tokens: int) -> str:
    """The label value: 100 -> 33-128."""
    place = bisect_left(ENDS, tokens)
    return NAMES[place] if place < len(NAMES) else LONGEST
