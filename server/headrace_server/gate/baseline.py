"""The report of an earlier release, whose speed is to be kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_server.config import Task
from headrace_server.evaluation import BadFile
from headrace_server.gate.machine import SAME
from headrace_server.gate.report import is_intact, read_report


def read_baseline(path: Path, task: Task, here: Mapping[str, Any]) -> float:
    """Tokens a second. `here`: this machine. Raises OSError, and BadFile for one that says nothing about it."""
    report = read_report(path)
    if not is_intact(report):
        raise BadFile(f"{path}: its body is not what its sha256 was made of; take the file that `headrace gate` wrote")
    body = report["body"]
    there = body.get("machine") or {}
    different = [name for name in SAME if there.get(name) != here.get(name)]
    if different:
        told = f"its {different[0]} is {there.get(different[0])!r}, here it is {here.get(different[0])!r}"
        raise BadFile(f"{path}: was measured on another machine: {told}; leave --baseline out, or measure one here")
    if (measured := body.get("task", Task.GENERATE)) != task:
        raise BadFile(f"{path}: was measured with --task={measured}, not {task}; leave --baseline out")
    speed = body.get("tokens_per_second")
    if type(speed) not in (int, float) or speed <= 0:
        raise BadFile(f"{path}: tokens_per_second is {speed!r}; must be a number above 0")
    return float(speed)
