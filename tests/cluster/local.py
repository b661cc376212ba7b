"""One whole cluster as a `with` block: control plane, nodes, kubectl, helm, and waits that explain themselves."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from cluster import nodes, running, users
from cluster.addresses import claim_share
from cluster.binaries import Binaries, ensure
from cluster.client import Client
from cluster.commands import Commands
from cluster.control_plane import ControlPlane
from cluster.nodes import NodeSettings, NodeShape
from cluster.processes import Program, ProgramEnded, stop_all
from cluster.running import Running
from cluster.waiting import HANG, tail

ONE_NODE = (NodeShape("node-a"),)


class LocalCluster(Client):
    """A Kubernetes that lives as long as the `with` block, and never longer than this process.

    Its directory keeps the logs afterwards: control-plane/*.log and nodes/NAME/.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: Sequence[NodeShape] = ONE_NODE,
        images: Mapping[str, Path] | None = None,
        image_pull_delay: float = 0.0,
        startup_delay: float = 0.0,
        binaries: Binaries | None = None,
        report: Callable[[str], None] = print,
        timeout: float = HANG,
    ) -> None:
        """Times in seconds; `timeout` is for each part to become ready.

        `images`: image repository -> folder of programs. `report` gets progress lines, of which a first build has many.
        """
        names = [shape.name for shape in nodes]
        if len(set(names)) < len(names):
            raise ValueError(f"nodes: each needs a name of its own, got {', '.join(names)}")
        self.directory = directory.resolve()
        self.kubeconfig = self.directory / "kubeconfig"
        self._binaries = binaries
        self._shapes = tuple(nodes)
        self._settings = NodeSettings(dict(images or {}), image_pull_delay, startup_delay)
        self._node_users = {shape.name: users.node(shape.name) for shape in nodes}
        self._report = report
        self._timeout = timeout
        self._agents: dict[str, Program] = {}
        self._undo = ExitStack()  # what `stop` has to end, latest first

    def __enter__(self) -> "LocalCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when every node is Ready. Raises DeadlineMissed or ProgramEnded with log lines, DirectoryInUse."""
        binaries = self._binaries or ensure(self._report)
        with ExitStack() as undo:
            lock = undo.enter_context(running.lock(self.directory))
            self._share = claim_share()
            undo.enter_context(self._share.claim)
            self._held = (self._share.claim.fileno(), lock.fileno())
            self._control_plane = ControlPlane(
                _fresh(self.directory / "control-plane"),
                binaries,
                self._share,
                tuple(self._node_users.values()),
                timeout=self._timeout,
                held=self._held,
            )
            undo.callback(self._control_plane.stop)
            self._control_plane.start()
            self._connect(binaries)
            undo.callback(self._stop_agents)
            self._start_nodes([shape.name for shape in self._shapes if shape.at_start])
            Running(str(self.kubeconfig), str(binaries.kubectl), str(binaries.helm)).save(self.directory)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """Ends every process of the cluster, pods included; returns when they are gone."""
        self._undo.close()

    @property
    def programs(self) -> list[Program]:
        """Everything that runs on its own: the control plane's programs and the node agents."""
        return [*self._control_plane.programs, *self._agents.values()]

    def program(self, name: str) -> Program:
        """For faults: os.kill(c.program("kube-apiserver").pid, SIGSTOP), or its `stop` and `start`."""
        return next(program for program in self.programs if program.name == name)

    def check_alive(self) -> None:
        """Raises ProgramEnded, with the log's end, when a program ended that nobody stopped. Every wait asks this."""
        for program in self.programs:
            if (status := program.status()) is not None:
                raise ProgramEnded(f"{program.name} ended with status {status}\n{tail(program.log)}")

    def start_node(self, name: str) -> None:
        """Start the agent of a node that was described to the constructor; returns when the node is Ready."""
        self._launch(name)
        self._wait_for_node(name)

    def stop_node(self, name: str) -> None:
        """The machine is gone, without goodbye: its agent and pods end, its Node object stays and goes NotReady."""
        self._agents.pop(name).stop()

    def _connect(self, binaries: Binaries) -> None:
        self.kubeconfig.unlink(missing_ok=True)
        shutil.copy(self._control_plane.admin_kubeconfig, self.kubeconfig)
        self.api = self._control_plane.api
        self.commands = Commands(binaries.kubectl, binaries.helm, self.kubeconfig)
        self._report(f"Control plane ready at {self.api.server}")

    def _stop_agents(self) -> None:
        stop_all([*self._agents.values()])
        self._agents.clear()

    def _start_nodes(self, names: Sequence[str]) -> None:
        _fresh(self.directory / "nodes")
        for shape in self._shapes[:1]:  # the first is the proxy
            for path, body in nodes.proxy_rights(self._node_users[shape.name].name):
                self.api.create(path, body)
        for name in names:
            self._launch(name)
        for name in names:
            self._wait_for_node(name)
        self._report(f"Nodes ready: {', '.join(names) or 'none'}")

    def _launch(self, name: str) -> None:
        index = next(index for index, shape in enumerate(self._shapes) if shape.name == name)
        agent = nodes.agent(
            self._shapes[index],
            self._share.node(index),
            self._settings,
            kubeconfig=self._control_plane.kubeconfig(self._node_users[name]),
            directory=self.directory / "nodes" / name,
            proxy=index == 0,
            held=self._held,
        )
        self._agents[name] = agent
        agent.start()

    def _wait_for_node(self, name: str) -> None:
        self._agents[name].wait_ready("Ready", lambda: self._is_ready(name), self._timeout)

    def _is_ready(self, name: str) -> bool:
        conditions = self.api.get(f"/api/v1/nodes/{name}").get("status", {}).get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _fresh(directory: Path) -> Path:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700)
    return directory
