"""Edges that read: which pods there are, how busy each says it is, and which requests Envoy has finished."""
