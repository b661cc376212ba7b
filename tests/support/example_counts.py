"""Properties that are worth more examples than a change can wait for."""

from hypothesis import settings

USUAL = settings.get_profile("default").max_examples


def examples(few: int) -> settings:
    """`few` of them, or as many as the profile says that was asked for."""
    chosen = settings.default
    assert chosen is not None
    return settings(deadline=None, max_examples=few if chosen.max_examples == USUAL else chosen.max_examples)
