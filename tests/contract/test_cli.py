"""One command `headrace`, brought by three distributions that never import each other."""

import subprocess
import sys
from pathlib import Path

import headrace_operator.cli
import headrace_router.cli
import headrace_server.cli
import pytest


def headrace(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("headrace")), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_dispatchers_are_the_same() -> None:
    modules = (headrace_operator.cli, headrace_server.cli, headrace_router.cli)
    assert len({Path(module.__file__).read_text() for module in modules}) == 1


def test_help_groups_the_commands_by_distribution() -> None:
    lines = headrace("--help").stdout.splitlines()
    heads = [line for line in lines if line.endswith(":")]
    assert heads == ["headrace-operator:", "headrace-router:", "headrace-server:"]
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    operators = [
        "drain", "explain", "operator", "pause", "replay", "report", "resume", "shadow", "simulate", "status", "ui",
    ]  # fmt: skip
    servers = ["batch", "chat", "complete", "embed", "evaluate", "gate", "key", "load", "quantize", "serve", "size"]
    assert named == [*operators, "route", *servers]
    assert all(len(line.split()) > 3 for line in lines if line.startswith("  ")), "each says what it does"


def test_help_waits_for_neither_torch_nor_kubernetes() -> None:
    program = """
import sys, headrace_server.cli
headrace_server.cli.main(["--help"])
print(sorted({"torch", "kubernetes", "kopf"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [("frobnicate",), ("--frobnicate",)])
def test_an_unknown_command_is_refused_with_the_remedy(words: tuple[str, ...]) -> None:
    done = headrace(*words)
    assert done.returncode == 2
    assert words[0] in done.stderr
    assert "headrace --help" in done.stderr
