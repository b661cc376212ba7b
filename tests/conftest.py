"""How many examples the properties are tried with: `make test-nightly` tries 10,000 of each that uses `examples`."""

from hypothesis import settings

settings.register_profile("usual", deadline=None)  # machines are noisy: no test is timed
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile("usual")
