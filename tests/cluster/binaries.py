"""Finds the control plane's programs, kubectl and helm, or has them built.

Order: $KUBEBUILDER_ASSETS, what we built before, the PATH, a build. What we did not build is taken only if its version
fits: a kubectl or a controller manager of another minor version fails in ways that look like our faults.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.build import ETCD, HELM, HELM_VERSION, KUBE, KUBERNETES, Recipe, built
from cluster.once import Report

ASK = {"kubectl": ["version", "--client"], "helm": ["version"]}  # the others know --version
# The beginning of a fitting version. Kubernetes promises little between minor versions, helm much within a major one.
FITTING = {name: KUBERNETES.lstrip("v").split(".")[:2] for name in KUBE.names} | {
    "etcd": ETCD.lstrip("v").split(".")[:2],
    "helm": HELM_VERSION.lstrip("v").split(".")[:1],
}


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
    places: dict[str, Path] = {}
    for recipe in (KUBE, HELM):
        given = _assets(recipe, env, report)
        places |= given | _rest(recipe, [name for name in recipe.names if name not in given], env, report)
    return Binaries(**{name.replace("-", "_"): place for name, place in places.items()})


def cache_folder(env: Mapping[str, str]) -> Path:
    """$HEADRACE_CACHE, else the user's cache. Outside the repository, so that `git clean` costs no build."""
    if own := env.get("HEADRACE_CACHE"):
        return Path(own)
    return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "~")).expanduser() / ".cache") / "headrace"


def _assets(recipe: Recipe, env: Mapping[str, str], report: Report) -> dict[str, Path]:
    """What the user's folder has of it: usually etcd, kube-apiserver and kubectl, as envtest wants them."""
    folder = env.get("KUBEBUILDER_ASSETS")
    there = {name: Path(folder) / name for name in recipe.names if folder and (Path(folder) / name).exists()}
    fitting = {name: place for name, place in there.items() if _fits(name, place, env)}
    for name in sorted(there.keys() - fitting.keys()):
        report(f"Passing over {there[name]} (KUBEBUILDER_ASSETS): it is not version {'.'.join(FITTING[name])}")
    return fitting


def _rest(recipe: Recipe, names: list[str], env: Mapping[str, str], report: Report) -> dict[str, Path]:
    if not names:
        return {}
    cache = cache_folder(env)
    if not recipe.folder(cache).exists():
        on_path = {name: Path(place) for name in names if (place := shutil.which(name, path=env.get("PATH")))}
        # All or none: one build makes them all, so a part of them saves nothing.
        if on_path.keys() == set(names) and all(_fits(name, place, env) for name, place in on_path.items()):
            return on_path
    folder = built(recipe, cache, env, report)
    return {name: folder / name for name in names}


def _fits(name: str, program: Path, env: Mapping[str, str]) -> bool:
    asked = [str(program), *ASK.get(name, ["--version"])]
    try:
        answer = subprocess.run(asked, env=dict(env), capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):  # not executable, for another machine, or hanging: does not fit
        return False
    told = re.search(r"\bv?(\d+)\.(\d+)", answer.stdout)
    return told is not None and list(told.groups())[: len(FITTING[name])] == FITTING[name]
