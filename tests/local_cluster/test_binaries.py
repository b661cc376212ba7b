"""Where the control plane's programs come from. Nothing is built here: small scripts stand in for the programs."""

import os
from pathlib import Path

import pytest
from cluster import binaries, toolchain
from cluster.binaries import HELM, KUBE, Binaries, ensure
from cluster.toolchain import BuildFailed


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache in which both programs were built before."""
    for recipe in (KUBE, HELM):
        program(tmp_path / "cache" / "binaries" / f"{recipe.module}-{recipe.key}", recipe.module)
    return tmp_path / "cache"


def found(env: dict[str, str]) -> Binaries:
    return ensure(lambda line: None, {"PATH": "/usr/bin:/bin", **env})


def test_what_was_built_before_is_found_again_under_every_name(cache: Path) -> None:
    places = found({"HEADRACE_CACHE": str(cache)})
    assert {getattr(places, name).resolve().name for name in Binaries.__slots__} == {"kube", "helm"}
    assert all(os.access(getattr(places, name), os.X_OK) for name in Binaries.__slots__)


def test_assets_that_the_user_names_come_first(cache: Path, tmp_path: Path) -> None:
    own = program(tmp_path / "assets", "kube-apiserver")
    places = found({"HEADRACE_CACHE": str(cache), "KUBEBUILDER_ASSETS": str(own.parent)})
    assert places.kube_apiserver == own
    assert places.etcd.is_relative_to(cache)


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"HEADRACE_CACHE": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/headrace"),
        ({"HOME": "/home/me"}, "/home/me/.cache/headrace"),
    ],
)
def test_the_cache_lies_outside_the_repository(env: dict[str, str], folder: str) -> None:
    assert binaries.cache_folder(env) == Path(folder)


def test_other_flags_or_modules_are_another_build() -> None:
    changed = binaries.Recipe(KUBE.module, KUBE.package, KUBE.names, KUBE.packages, ldflags="-s")
    assert len({KUBE.key, HELM.key, changed.key}) == 3


def test_a_failed_build_says_what_failed_and_what_to_do(tmp_path: Path) -> None:
    go = (
        'case "$1" in version) echo go version go1.99.0 linux/amd64;; *) echo "no route to module proxy"; exit 1;; esac'
    )
    program(tmp_path / "bin", "go", go)
    with pytest.raises(BuildFailed, match=r"(?s)no route to module proxy.*KUBEBUILDER_ASSETS"):
        found({"HEADRACE_CACHE": str(tmp_path / "cache"), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})


@pytest.mark.parametrize(
    ("says", "is_new_enough"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.27.3 linux/amd64", True),
        ("go version go1.19.8 linux/amd64", False),
        ("what?", False),
    ],
)
def test_an_old_go_is_not_taken(tmp_path: Path, says: str, is_new_enough: bool) -> None:
    go = program(tmp_path, "go", f"echo '{says}'")
    assert (toolchain.version(str(go), {"PATH": "/usr/bin:/bin"}) >= toolchain.GO_NEEDED) is is_new_enough
