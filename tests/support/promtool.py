"""Prometheus' own tool, which checks rules and plays series to them."""

import subprocess

from cluster import debian


def promtool(*words: str) -> "subprocess.CompletedProcess[str]":
    program = debian.ensure(lambda line: None).promtool
    return subprocess.run([str(program), *words], capture_output=True, text=True, check=False, timeout=300)
