"""Prompts for a load: runs of real words, so that the server's tokenizer meets text and not noise."""

import random
from collections.abc import Sequence

# Used without --prompts. King James Version, public domain.
BUILT_IN = """
In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was
upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there be light:
and there was light. And God saw the light, that it was good: and God divided the light from the darkness. And God
called the light Day, and the darkness he called Night. And the evening and the morning were the first day.
To every thing there is a season, and a time to every purpose under the heaven: a time to be born, and a time to die;
a time to plant, and a time to pluck up that which is planted; a time to keep silence, and a time to speak.
"""


def draw_prompt(words: Sequence[str], length: int, dice: random.Random) -> str:
    """`length` words in a row, from a random place; the text is taken as a ring."""
    start = dice.randrange(len(words))
    return " ".join(words[(start + offset) % len(words)] for offset in range(length))
