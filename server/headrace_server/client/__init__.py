"""Clients of a running server: one completion, or a load."""
