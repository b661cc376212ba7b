"""Answers and embeddings that were computed before, at the doors: what is found here costs the engine nothing."""
