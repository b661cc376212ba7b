"""Queries in, tokens out: rpc -> engine -> model, continuously batched."""
