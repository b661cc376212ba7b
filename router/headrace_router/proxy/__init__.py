"""Envoy, which carries every byte: its configuration, its process, and the question that it asks for each request."""
