"""`headrace ui` as its own process, at a port that was free."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import LocalCluster

PROGRAM = Path(sys.executable).parent / "headrace"


@contextmanager
def ui(cluster: LocalCluster, *words: str, **environment: str) -> Iterator[str]:
    """Its address. Ends it as Ctrl-C does, and checks that it says goodbye with 0."""
    env = {**cluster.env({"PATH": "/usr/bin:/bin"}), "HOME": str(cluster.directory), **environment}
    command = [str(PROGRAM), "ui", "--listen", "127.0.0.1:0", "--interval", "0.2", *words]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            address = re.match(r"http://127\.0\.0\.1:\d+/", said)
            assert address, said or process.communicate(timeout=120)[1]
            yield address[0]
            assert process.poll() is None, "it ended by itself"
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
