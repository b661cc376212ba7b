"""lm-eval beside a served model: task scores, asked through the API that clients use, so that the model is as served.

The harness has an environment of its own (docs/openai.md): its 500 MB are nobody's dependency.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.task_scores import Score, read_scores

NAME = "evaluated"  # of the model, in requests
LISTENING = re.compile(r"listening: gRPC \S+, HTTP (\S+)")
READY = f"ready: {NAME},"
PAUSE = 0.2  # seconds between two looks at what the server said
ENDS = 30.0  # seconds that it may take to end
TOLD = 2000  # characters of a program that failed
ABSENT = (
    "--tasks: there is no lm-eval; install requirements/peers-lm-eval.txt into an environment of its own "
    "(docs/openai.md), and name it as --lm-eval=ENVIRONMENT/bin/lm-eval"
)


@dataclass(frozen=True, slots=True)
class Harness:
    program: str
    tasks: str  # names, with commas between them
    folder: Path | None  # further tasks

    def scores(self, serve: Sequence[str], tell: Callable[[str], None]) -> tuple[Score, ...]:
        """`serve`: arguments of `headrace serve` that make the model. Raises ModelRefused, BadFile."""
        with TemporaryDirectory(prefix="headrace-tasks-") as folder, _served(serve, Path(folder)) as address:
            tell(f"{self.tasks} of the model at {address}")
            return self._asked(address, Path(folder))

    def _asked(self, address: str, folder: Path) -> tuple[Score, ...]:
        arguments = f"model={NAME},base_url=http://{address}/v1/completions,tokenizer_backend=remote,num_concurrent=4"
        words = [
            "env", "OPENAI_API_KEY=none", self.program, "run", "--model", "local-completions", "--batch_size", "4",
            "--model_args", arguments, "--tasks", self.tasks, "--output_path", str(folder / "results"),
            *([] if self.folder is None else ["--include_path", str(self.folder)]),
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadFile(f"{self.program} failed with status {done.returncode}:\n{done.stderr[-TOLD:]}")
        files = sorted((folder / "results").rglob("results_*.json"))
        try:
            return read_scores(json.loads(files[-1].read_text(encoding="utf-8")))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadFile(f"{self.program} left no results as lm-eval 0.4 writes them: {error!r}") from error


def found(program: str | None, tasks: str, folder: Path | None) -> Harness:
    """`program`: None for the one on the PATH. Raises BadFile."""
    there = shutil.which(program or "lm-eval")
    if there is None:
        raise BadFile(f"--lm-eval={program}: is no program" if program else ABSENT)
    if folder is not None and not folder.is_dir():
        raise BadFile(f"--task-files={folder}: is no folder")
    return Harness(there, tasks, folder)


@contextmanager
def _served(serve: Sequence[str], folder: Path) -> Iterator[str]:
    """The address of its OpenAI API, once it is ready."""
    words = [sys.executable, "-m", "headrace_server", *serve, f"--name={NAME}"]
    log = folder / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*words, "--host=127.0.0.1", "--grpc-port=0", "--http-port=0"], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        while READY not in (said := log.read_text(encoding="utf-8", errors="replace")):
            if server.poll() is not None:
                raise ModelRefused(f"`headrace serve` ended with status {server.returncode}:\n{said[-TOLD:]}")
            time.sleep(PAUSE)
        place = LISTENING.search(said)
        assert place is not None, "it is ready after it listens"
        yield place[1]
    finally:
        server.terminate()
        try:
            server.wait(ENDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
