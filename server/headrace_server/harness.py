"""lm-eval beside a served model: task scores, asked through the API that clients use, so that the model is as served.

The harness has an environment of its own (docs/openai.md): its 500 MB are nobody's dependency.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from headrace_server.evaluation import BadFile
from headrace_server.gate.server_process import serving
from headrace_server.task_scores import Score, read_scores

NAME = "evaluated"  # of the model, in requests
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
        return asyncio.run(self._scored(serve, tell))

    async def _scored(self, serve: Sequence[str], tell: Callable[[str], None]) -> tuple[Score, ...]:
        with TemporaryDirectory(prefix="headrace-tasks-") as name:
            folder, words = Path(name), [*serve, f"--name={NAME}", "--host=127.0.0.1"]
            async with serving(words, folder / "serve.log") as server:
                tell(f"{self.tasks} of the model at {server.http}")
                return await asyncio.to_thread(self._asked, server.http, folder)

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
