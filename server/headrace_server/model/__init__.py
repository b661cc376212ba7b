"""The only room that knows torch: weights, transformer, KV cache, sampling."""
