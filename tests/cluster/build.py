"""Builds the programs of the local cluster from the pinned Go modules in `go/`, once, with progress."""

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.once import Report, once
from cluster.toolchain import BuildFailed, go_command, settled

MODULES = Path(__file__).with_name("go")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
GIB = 2**30
# Go asks a proxy once for each file, and gives up at the first that does not come.
BROKEN_OFF = re.compile(r'\b(?:Get|reading) "?https?://')
TRIES = 4
PAUSE = 10.0  # seconds between two


@dataclass(frozen=True, slots=True)
class Recipe:
    """One Go module that becomes one program, reachable under several names."""

    module: str  # folder in go/
    package: str  # what `go build` builds
    names: tuple[str, ...]  # links to the program, which looks at its own name
    packages: int  # how many Go compiles the first time, after the recipes before this one; for the progress line
    free_bytes: int  # what Go's module cache and build cache then grow by, and some slack
    variables: Mapping[str, str]  # versions that the programs tell, by the Go variable that holds them

    @property
    def ldflags(self) -> str:
        return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in self.variables.items())])

    @property
    def key(self) -> str:
        """Changes with everything that changes the result: module files, source, flags, kind of machine."""
        digest = hashlib.sha256(f"{self.package} {self.ldflags} {platform.machine()}".encode())
        for file in sorted((MODULES / self.module).iterdir()):
            if file.suffix in {".go", ".mod", ".sum"}:
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def folder(self, cache: Path) -> Path:
        """Where the program lies under all its names, once it is built."""
        return cache / "binaries" / f"{self.module}-{self.key}"


def pinned(module: str, dependency: str) -> str:
    """The version of `dependency` in go/<module>/go.mod, like "v1.36.3"."""
    match = re.search(rf"^\s*{re.escape(dependency)} (v\S+)", (MODULES / module / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise LookupError(f"go/{module}/go.mod does not require {dependency}")
    return match[1]


def go_needed(module: str) -> tuple[int, int, int]:
    """The oldest Go that go/<module>/go.mod allows."""
    match = re.search(r"^go (\d+)\.(\d+)\.(\d+)$", (MODULES / module / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise LookupError(f"go/{module}/go.mod names no full Go version")
    return int(match[1]), int(match[2]), int(match[3])


KUBERNETES = pinned("kube", "k8s.io/kubernetes")
ETCD = pinned("kube", "go.etcd.io/etcd/server/v3")
HELM_VERSION = pinned("helm", "helm.sh/helm/v4")
_VERSION = "k8s.io/component-base/version"  # left unset, `kubectl version` fails

KUBE = Recipe(
    module="kube",
    package=".",
    names=CONTROL_PLANE,
    packages=2727,
    free_bytes=5 * GIB,
    variables={
        f"{_VERSION}.gitVersion": KUBERNETES,
        f"{_VERSION}.gitMajor": KUBERNETES.lstrip("v").split(".")[0],
        f"{_VERSION}.gitMinor": KUBERNETES.split(".")[1],
    },
)
# A module of its own: helm wants other versions of the Kubernetes libraries. The package index has helm only as a
# library for Python, and the README tells people to run the program.
HELM = Recipe(
    module="helm",
    package="helm.sh/helm/v4/cmd/helm",
    names=("helm",),
    packages=680,
    free_bytes=2 * GIB,
    variables={"helm.sh/helm/v4/internal/version.version": HELM_VERSION},
)


def built(recipe: Recipe, cache: Path, env: Mapping[str, str], report: Report) -> Path:
    """The folder with the recipe's program under all its names. Raises BuildFailed with what to do about it."""

    def make(unfinished: Path) -> None:
        unfinished.mkdir()
        _build(recipe, unfinished / recipe.module, cache, env, report)
        for name in set(recipe.names) - {recipe.module}:
            (unfinished / name).symlink_to(recipe.module)

    return once(recipe.folder(cache), make, report)


def _build(recipe: Recipe, program: Path, cache: Path, env: Mapping[str, str], report: Report) -> None:
    go = go_command(go_needed(recipe.module), cache, env, report)
    folder = MODULES / recipe.module
    go_env = settled(env) | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    _need_room(recipe, [cache, *_go_caches(go, go_env, folder)])
    command = [str(go), "build", "-v", "-trimpath", "-ldflags", recipe.ldflags, "-o", str(program), recipe.package]
    home = recipe.folder(cache)
    report(f"Building {', '.join(recipe.names)} from pinned Go modules, once: the result stays in {home}")
    log = home.with_name(f"{home.name}.log")
    started = time.monotonic()

    def once_more() -> str | None:
        """Its last lines; None when it is done."""
        with (
            log.open("w") as output,
            subprocess.Popen(command, cwd=folder, env=go_env, stdout=output, stderr=subprocess.STDOUT) as build,
        ):
            try:
                _follow(build, log, recipe, started, report)
            except BaseException:
                build.terminate()  # else an interrupted caller would wait here for the whole build
                raise
        return "\n".join(log.read_text().splitlines()[-15:]) if build.returncode else None

    failed, tries = once_more(), 1
    while failed and BROKEN_OFF.search(failed) and tries < TRIES:
        report(f"A download broke off; what is there stays, and the rest is asked for again in {PAUSE:g} s:\n{failed}")
        time.sleep(PAUSE)
        failed, tries = once_more(), tries + 1
    if failed:
        raise BuildFailed(
            f"`{' '.join(command)}` failed in {folder} (log: {log}):\n{failed}\n"
            "The build needs the Go module proxy (GOPROXY). Without it, name a folder that has "
            f"{', '.join(recipe.names)} in KUBEBUILDER_ASSETS."
        )
    report(f"Built {recipe.module} in {time.monotonic() - started:.0f} s.")


def _go_caches(go: Path, env: Mapping[str, str], folder: Path) -> list[Path]:
    asked = [str(go), "env", "GOCACHE", "GOMODCACHE"]
    answer = subprocess.run(asked, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BuildFailed(f"`{' '.join(asked)}` failed; Go needs $HOME, or $GOCACHE and $GOPATH:\n{answer.stderr}")
    return [Path(line) for line in answer.stdout.split("\n") if line]


def _need_room(recipe: Recipe, folders: list[Path]) -> None:
    for folder in folders:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(existing).free
        if free < recipe.free_bytes:
            raise BuildFailed(
                f"building {recipe.module} needs {recipe.free_bytes / GIB:.1f} GiB, {folder} has {free / GIB:.1f} GiB "
                "free: free some, or name other folders in $HEADRACE_CACHE, $GOCACHE and $GOMODCACHE"
            )


def _follow(build: "subprocess.Popen[bytes]", log: Path, recipe: Recipe, started: float, report: Report) -> None:
    """A line now and then: a terminal sees one every 5 s, a log file every 20 s."""
    pause = 5 if sys.stdout.isatty() else 20
    while True:
        try:
            build.wait(pause)
        except subprocess.TimeoutExpired:
            lines = log.read_text().splitlines()
            fetched = sum(line.startswith("go: downloading") for line in lines)
            compiled = len(lines) - fetched
            report(
                f"  {recipe.module}: {fetched} modules fetched, {compiled} of about {recipe.packages} packages "
                f"compiled, {time.monotonic() - started:.0f} s"
            )
        else:
            return
