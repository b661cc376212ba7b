"""`python -m cluster`: keep a local Kubernetes running by hand."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cluster import running
from cluster.client import attach
from cluster.local import LocalCluster
from cluster.nodes import NodeShape
from cluster.processes import PACKAGES, ProgramEnded
from cluster.running import DirectoryInUse, Running
from cluster.waiting import HANG, DeadlineMissed, tail, wait_until

START_TIMEOUT = 3600.0  # seconds; a first start builds Kubernetes
LAST_WORDS = "logs POD | status | down"  # of a start that went well


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    options = _parser(env).parse_args(arguments)
    options.words = arguments
    try:
        return int(options.run(options, env))
    except (LookupError, DirectoryInUse, ProgramEnded, DeadlineMissed) as error:
        print(error.args[0] if error.args else error, file=sys.stderr)
        return 1


def up(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """start a cluster; runs until Ctrl-C, or with --detach until `down`"""
    if options.detach:
        return _detach(options)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    shapes = [NodeShape(f"node-{_letter(index)}", gpus=options.gpus) for index in range(options.nodes)]
    with LocalCluster(
        options.directory,
        nodes=shapes,
        images=_images(options.image),
        image_pull_delay=options.image_pull_delay,
        startup_delay=options.start_delay,
        report=_say,
    ) as cluster:
        _say(_how_to_use(cluster.kubeconfig, options.directory))
        try:
            while True:
                cluster.check_alive()
                time.sleep(1)
        except KeyboardInterrupt:
            _say("Stopping ...")
    return 0


def down(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """stop the cluster; returns when its last process is gone"""
    try:
        os.kill(running.owner(options.directory), signal.SIGTERM)
    except ProcessLookupError:
        _say("Its owner has died; waiting for the rest to end ...")
    wait_until(
        "the cluster's end",
        lambda: not running.is_locked(options.directory),
        timeout=HANG,
        evidence=lambda: tail(_log(options.directory)),
    )
    _say(f"Stopped. Its logs are in {options.directory}.")
    return 0


def status(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """show the nodes and the pods"""
    cluster = attach(options.directory)
    _say(f"A cluster runs in {options.directory}: {cluster.api.server}")
    _say(cluster.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide").rstrip())
    return 0


def logs(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """show a pod's log"""
    flags = [
        *(["--follow"] if options.follow else []),
        *(["--previous"] if options.previous else []),
        *([f"--container={options.container}"] if options.container else []),
    ]
    found, surroundings = Running.load(options.directory), attach(options.directory).env(env)
    os.execve(found.kubectl, ["kubectl", "logs", "--namespace", options.namespace, options.pod, *flags], surroundings)


def volume(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """make a folder of this machine a PersistentVolumeClaim"""
    attach(options.directory).volume(options.namespace, options.claim, options.folder.resolve())
    _say(f"PersistentVolumeClaim {options.namespace}/{options.claim} is bound to {options.folder}")
    return 0


def print_env(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    """print shell lines for `eval`: KUBECONFIG, and kubectl and helm on the PATH"""
    wanted = attach(options.directory).env(env)
    for name in ("KUBECONFIG", "KUBECACHEDIR", "PATH"):
        print(f"export {name}={shlex.quote(wanted[name])}")
    return 0


def _detach(options: argparse.Namespace) -> int:
    """Start the same command as a daemon; show what it says until the cluster is ready or it gives up."""
    options.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if running.is_locked(options.directory):
        raise DirectoryInUse(f"{options.directory} is used by another cluster that runs: stop it or name another")
    command = [sys.executable, "-m", "cluster", *(word for word in options.words if word != "--detach")]
    with _log(options.directory).open("w+") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    with _log(options.directory).open() as said:
        heard = []

        def ready_or_ended() -> bool:
            has_ended = daemon.poll() is not None  # before its last words are read
            heard.append(said.read())
            sys.stdout.write(heard[-1])
            sys.stdout.flush()
            return has_ended or LAST_WORDS in "".join(heard)

        wait_until("the cluster", ready_or_ended, timeout=START_TIMEOUT, evidence=lambda: tail(_log(options.directory)))
    return daemon.poll() or 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _images(given: Sequence[str]) -> dict[str, Path]:
    """REPOSITORY=FOLDER words over the default: Headrace's own programs, from where this Python has its scripts."""
    scripts = Path(sys.executable).parent
    images = {f"headrace-{each}": scripts for each in ("operator", "server", "router")}
    for word in given:
        repository, equals, folder = word.partition("=")
        if not (repository and equals and Path(folder).is_dir()):
            raise SystemExit(f"--image {word}: expected REPOSITORY=FOLDER with a folder that exists")
        images[repository] = Path(folder).resolve()
    return images


def _letter(index: int) -> str:
    """a ... z, then numbers."""
    return chr(ord("a") + index) if index < 26 else str(index)


def _how_to_use(kubeconfig: Path, directory: Path) -> str:
    words = [sys.executable, "-m", "cluster", "--directory", str(directory)]
    again = f"PYTHONPATH={shlex.quote(str(PACKAGES))} {shlex.join(words)}"
    return "\n".join(
        [
            "The cluster is ready. In a shell:",
            f"  export KUBECONFIG={shlex.quote(str(kubeconfig))}",
            f'  eval "$({again} env)"    # the same, with kubectl and helm on the PATH',
            f"  {again} {LAST_WORDS}",
        ]
    )


def _log(directory: Path) -> Path:
    return directory / "up.log"


def _say(line: str) -> None:
    print(line, flush=True)


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    state = Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    parser.add_argument("--directory", type=Path, default=state / "headrace" / "cluster", help="state and logs")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        added.set_defaults(run=run)
        return added

    starting = command("up", up)
    starting.add_argument("--nodes", type=int, default=2, help="how many (default %(default)s)")
    starting.add_argument("--gpus", type=int, default=4, help="nvidia.com/gpu of each node (default %(default)s)")
    starting.add_argument(
        "--image", action="append", default=[], metavar="REPOSITORY=FOLDER", help="programs of an image"
    )
    starting.add_argument("--image-pull-delay", type=float, default=0.0, metavar="S", help="seconds")
    starting.add_argument("--start-delay", type=float, default=0.0, metavar="S", help="seconds")
    starting.add_argument("--detach", action="store_true", help="run in the background")
    command("down", down)
    command("status", status)
    command("env", print_env)
    claim = command("volume", volume)
    claim.add_argument("claim")
    claim.add_argument("folder", type=Path)
    claim.add_argument("-n", "--namespace", default="default")
    log = command("logs", logs)
    log.add_argument("pod")
    log.add_argument("-n", "--namespace", default="default")
    log.add_argument("-c", "--container", default="")
    log.add_argument("-f", "--follow", action="store_true")
    log.add_argument("-p", "--previous", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))  # noqa: TID251 - the edge
