"""Offline jobs: files of requests that nobody waits for, kept until each one has its result."""
