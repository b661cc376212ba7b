"""The common form of every result: the machine, the work, and a row for each thing measured."""

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", default="-", help="where to write the result; - is stdout")


def report(where: str, work: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], **machine: Any) -> None:
    """`machine`: what else of it mattered. `where`: --json."""
    load = round(os.getloadavg()[0], 2)
    about = {"cpu": cpu_name(), "cores": os.cpu_count(), "load_average": load, **machine}
    text = json.dumps({"machine": about, "work": work, "rows": rows}, indent=2)
    if where == "-":
        print(text)
    else:
        Path(where).write_text(text + "\n")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
