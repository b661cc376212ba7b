"""Edges that write: planned actions become API calls and events."""
