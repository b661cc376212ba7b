"""Finds the control plane's programs and helm, or builds them once from the pinned Go modules in `go/`, with progress.

Order: $KUBEBUILDER_ASSETS, then the cache, then a build into it. The PATH is not trusted: a kubectl of another minor
version fails in ways that look like our faults. The cache lies outside the repository: `git clean` costs nothing.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.toolchain import BuildFailed, go_command

MODULES = Path(__file__).with_name("go")
KUBERNETES = "v1.36.3"  # what go/kube/go.mod pins
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
FREE_BYTES_NEEDED = 6 * 2**30  # Go's module and build caches take 4 GB
VERSION_FLAGS = (
    f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    " -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
)
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One Go module that becomes one program, reachable under several names."""

    module: str  # folder in go/
    package: str  # what `go build` builds
    names: tuple[str, ...]  # links to the program, which looks at its own name
    packages: int  # how many Go compiles, for the progress line
    ldflags: str = "-s -w"

    @property
    def key(self) -> str:
        """Changes with everything that changes the result: module files, source, flags."""
        digest = hashlib.sha256(f"{self.package} {self.ldflags}".encode())
        for file in sorted((MODULES / self.module).iterdir()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:16]


KUBE = Recipe("kube", ".", CONTROL_PLANE, packages=2715, ldflags=f"-s -w {VERSION_FLAGS}")
HELM = Recipe("helm", "helm.sh/helm/v4/cmd/helm", ("helm",), packages=2200)


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where each program lies."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    helm: Path


def ensure(report: Report, env: Mapping[str, str] = os.environ) -> Binaries:  # noqa: TID251 - the edge that finds tools
    """All programs, built if they must be. Raises BuildFailed with what to do about it."""
    assets = env.get("KUBEBUILDER_ASSETS")
    places: dict[str, Path] = {}
    for recipe in (KUBE, HELM):
        given = {name: Path(assets) / name for name in recipe.names if assets and (Path(assets) / name).exists()}
        missing = [name for name in recipe.names if name not in given]
        built = _built(recipe, cache_folder(env), env, report) if missing else Path()
        places |= given | {name: built / name for name in missing}
    return Binaries(**{name.replace("-", "_"): place for name, place in places.items()})


def cache_folder(env: Mapping[str, str]) -> Path:
    """$HEADRACE_CACHE, else the user's cache."""
    if own := env.get("HEADRACE_CACHE"):
        return Path(own)
    return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "~")).expanduser() / ".cache") / "headrace"


def _built(recipe: Recipe, cache: Path, env: Mapping[str, str], report: Report) -> Path:
    folder = cache / "binaries" / f"{recipe.module}-{recipe.key}"
    program = folder / recipe.module
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock"):
            if not program.exists():  # else another process built it while we waited
                _build(recipe, program, cache, env, report)
    for name in recipe.names:
        if name != recipe.module and not (folder / name).exists():
            _link(folder / name, recipe.module)
    return folder


def _link(link: Path, target: str) -> None:
    try:
        link.symlink_to(target)
    except FileExistsError:  # another process was faster
        return


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(recipe: Recipe, program: Path, cache: Path, env: Mapping[str, str], report: Report) -> None:
    free = shutil.disk_usage(cache).free
    if free < FREE_BYTES_NEEDED:
        raise BuildFailed(
            f"building {recipe.module} needs {FREE_BYTES_NEEDED >> 30} GiB, {cache} has {free >> 30} GiB free: "
            "free some, or name another folder in $HEADRACE_CACHE"
        )
    go = go_command(cache, env, report)
    unfinished = program.with_suffix(".unfinished")
    command = [*go, "build", "-v", "-trimpath", "-ldflags", recipe.ldflags, "-o", str(unfinished), recipe.package]
    report(f"Building {recipe.module} from pinned Go modules, once (the result is kept in {program.parent}) ...")
    log = program.with_suffix(".log")
    started = time.monotonic()
    with (
        log.open("w") as output,
        subprocess.Popen(
            command,
            cwd=MODULES / recipe.module,
            env={**env, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as build,
    ):
        _follow(build, log, recipe, started, report)
    if build.returncode != 0:
        last = "\n".join(log.read_text().splitlines()[-15:])
        raise BuildFailed(
            f"`{' '.join(command)}` failed in {MODULES / recipe.module} (log: {log}):\n{last}\n"
            "It needs the Go module proxy; with KUBEBUILDER_ASSETS you can name a folder that has the programs already."
        )
    unfinished.rename(program)
    report(f"Built {recipe.module} in {time.monotonic() - started:.0f} s.")


def _follow(build: "subprocess.Popen[bytes]", log: Path, recipe: Recipe, started: float, report: Report) -> None:
    """A line now and then: a terminal sees one every 5 s, a log file every 30 s."""
    pause = 5 if sys.stdout.isatty() else 30
    while True:
        try:
            build.wait(pause)
        except subprocess.TimeoutExpired:
            compiled = sum(1 for line in log.read_text().splitlines() if not line.startswith("go: "))
            share = min(99, 100 * compiled // recipe.packages)
            report(f"  {recipe.module}: {compiled} packages, about {share} %, {time.monotonic() - started:.0f} s")
        else:
            return


def main() -> int:
    """`python -m cluster.binaries`: build what is missing, print where everything lies."""
    try:
        binaries = ensure(lambda line: print(line, flush=True))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    for name in Binaries.__slots__:
        print(f"{name.replace('_', '-'):<24} {getattr(binaries, name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
