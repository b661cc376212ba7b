"""The images, as far as a machine without a container engine can show: the Dockerfile's commands, run in empty folders.

The packages of the server's image are gigabytes: those of this environment, which has the same pins, stand for them.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
PINNED = re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", re.MULTILINE)
FOLDERS = ("/opt/", "/src/", "/wheels")  # of the image
PROJECTS = ("operator", "router", "server")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # ("RUN" | "COPY" | ..., the rest of the line)


def stages(accelerator: str = "cuda") -> dict[str, Stage]:
    """By name, in order; a line that goes on is one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.replace("${ACCELERATOR}", accelerator).partition(" AS ")
            found[name] = stage = Stage(base)
        elif found:
            stage.steps.append((word, rest.strip()))
    return found


def chain(name: str, accelerator: str = "cuda") -> Iterator[tuple[str, str]]:
    """Every step that leads to this stage, from the first one on."""
    known = stages(accelerator)
    stage = known[name]
    if stage.base in known:
        yield from chain(stage.base, accelerator)
    yield from stage.steps


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", PROJECTS)
@pytest.mark.parametrize("accelerator", ["cuda", "cpu"])
def test_an_image_runs_as_nobody_and_brings_what_was_built(target: str, accelerator: str) -> None:
    steps = list(chain(target, accelerator))
    assert ("USER", "65532:65532") in steps
    assert ("COPY", f"--from=build-{target} /opt/headrace /opt/headrace") in steps
    assert not [rest for word, rest in steps if word == "ADD"]
    assert not re.search(r"https?://|index-url", DOCKERFILE.read_text())


def test_what_is_copied_is_there_and_is_sent_along() -> None:
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {
        source
        for accelerator in ("cuda", "cpu")
        for stage in stages(accelerator).values()
        for word, rest in stage.steps
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {"operator", "router", "server", "requirements/operator.txt", "requirements/server.txt"} <= copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.partition("/")[0] in allowed, source


def test_the_image_for_cpus_holds_the_same_less_what_cuda_needs() -> None:
    cuda, cpu = (
        dict(PINNED.findall((ROOT / "requirements" / f"{n}.txt").read_text())) for n in ("server", "server-cpu")
    )
    assert cpu.items() <= cuda.items(), "compile server-cpu.txt again, as `make lock` does"
    less = cuda.keys() - cpu.keys()
    assert {"torch", "triton"} < less
    kept = [name for name in less if not re.match(r"torch$|triton$|nvidia-|cuda-", name)]
    assert not kept, "compile server-cpu.txt again, as `make lock` does"
    sed = next(found[0] for _, rest in chain("packages-cpu") if (found := re.search(r"sed .*?(?= >)", rest)))
    command = sed.replace("/src/requirements/", f"{ROOT}/requirements/")
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"torch=={cuda['torch']}"


def test_the_operators_image_is_small() -> None:
    heavy = {"torch", "numpy", "triton", "transformers", "grpcio", "numba"}
    assert not heavy & dict(PINNED.findall((ROOT / "requirements" / "operator.txt").read_text())).keys()


class Machine:
    """An empty folder that stands for the file system of an image while it is built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, words: str) -> str:
        """The same command or path, with the image's folders below this one."""
        return re.sub(rf"(?<![\w.])({'|'.join(FOLDERS)})", rf"{self.folder}\1", words)

    def build(self, name: str, *, after: str = "base", without: str = "\0") -> None:
        """Runs the steps from after one stage (`base` needs root, and only adds a user) to the end of another one, less
        the RUN lines that name `without`."""
        for word, rest in list(chain(name))[len(list(chain(after))) :]:
            if word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(source, Path(self.place(target)))
            elif word == "RUN" and without not in rest:
                self._shell(self.place(re.sub(r"--mount=\S+", "", rest)), dict(self._settings(name)))

    def _settings(self, name: str) -> Iterator[tuple[str, str]]:
        """What ENV sets, less PATH and HOME: the package index and the caches of this machine hang on those."""
        for word, rest in chain(name):
            if word == "ENV":
                yield from ((key, value) for key, _, value in (each.partition("=") for each in rest.split()))

    def _shell(self, command: str, settings: dict[str, str]) -> None:
        own = {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "HOME": os.environ["HOME"]}  # noqa: TID251
        env = {**os.environ, **settings, **own}  # noqa: TID251
        env.pop("VIRTUAL_ENV", None)
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=env, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"

    def _copy(self, source: str, target: Path) -> None:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)

    def run(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """As in the image: nothing of this machine's environment."""
        path = f"{self.folder}/opt/headrace/bin:/usr/bin:/bin"
        return subprocess.run(
            words, env={"PATH": path, "HOME": "/tmp", **env}, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """With the tools that build, and an empty environment."""
    machine = Machine(tmp_path_factory.mktemp("image"))
    machine.build("build")
    return machine


@pytest.fixture
def image(machine: Machine) -> Iterator[Machine]:
    """The same, for one image; emptied afterwards."""
    yield machine
    for folder in ("opt/headrace", "wheels"):
        shutil.rmtree(machine.folder / folder)
    machine._shell(machine.place("python -m venv --without-pip /opt/headrace"), {})


@pytest.mark.parametrize(
    ("project", "command", "option", "most"),
    [("operator", "operator", "--lease-namespace", 250), ("router", "route", "--hold-seconds", 400)],
    ids=["operator", "router"],
)
def test_a_small_image_starts_its_program_and_holds_what_is_pinned(
    image: Machine, project: str, command: str, option: str, most: float
) -> None:
    """`most`: MiB."""
    image.build(f"build-{project}", after="build")
    done = image.run("headrace", command, "--help")
    assert done.returncode == 0, done.stderr
    assert option in done.stdout
    listed = image.run("headrace", "--help").stdout
    assert [other for other in PROJECTS if f"headrace-{other}:" in listed] == [project]
    program = "from importlib.metadata import distributions as d; print(*(each.name for each in d()))"
    held = {name.lower().replace("_", "-") for name in image.run("python", "-c", program).stdout.split()}
    pinned = dict(PINNED.findall((ROOT / "requirements" / f"{project}.txt").read_text())).keys()
    assert f"headrace-{project}" in held
    assert held - {f"headrace-{project}"} <= pinned
    here = image.folder / "opt" / "headrace"
    size = sum(file.stat().st_size for file in here.rglob("*") if file.is_file() and not file.is_symlink()) / MIB
    assert size < most
    assert list(here.rglob("aiohttp/__pycache__/*.pyc")), "compiled: a pod's file system is read-only"


def test_the_servers_image_starts_the_server(image: Machine) -> None:
    image.build("build-server", after="build", without="server.txt")
    (packages,) = {place for place in sys.path if place.endswith("site-packages")}
    done = image.run("headrace", "serve", "--help", PYTHONPATH=packages)
    assert done.returncode == 0, done.stderr
    assert "--tensor-parallel-size" in done.stdout
    program = "import headrace_server; print(headrace_server.__file__)"
    place = image.run("python", "-c", program, PYTHONPATH=packages).stdout
    assert place.startswith(str(image.folder)), "the wheel's, not this checkout's"


@pytest.mark.parametrize("project", PROJECTS)
def test_a_wheel_comes_out_the_same_twice(project: str, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        source, wheels = tmp_path / f"{number}" / project, tmp_path / f"wheels-{number}"
        shutil.copytree(ROOT / project, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for file in source.rglob("*"):
            os.utime(file, (1e9 * (1 + number), 1e9 * (1 + number)))  # checked out at another time
        program = Path(sys.executable).with_name("uv")
        command = [
            program,
            "build",
            "--quiet",
            "--wheel",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "--out-dir",
            wheels,
        ]
        subprocess.run([*command, source], check=True)
        (wheel,) = wheels.glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
