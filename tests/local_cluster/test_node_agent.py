"""Pods on a real control plane, run by the node agent as processes: start, restart, end, logs, volumes, routing."""

import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import LocalCluster, NodeShape

pytestmark = pytest.mark.cluster
Body = dict[str, Any]
Run = Callable[..., str]
HTTP = ["python", "-m", "http.server", "--bind", "$(POD_IP)", "8000"]
POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
NAME_ITEM = {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}
READY_PROBE = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1}
SLEEP = ["python", "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    shapes = (NodeShape("gpus", gpus=2), NodeShape("other"), NodeShape("spare", at_start=False))
    images = {"tools": Path(sys.executable).parent}
    with LocalCluster(tmp_path_factory.mktemp("node"), nodes=shapes, images=images) as running:
        yield running


@pytest.fixture
def run(cluster: LocalCluster) -> Iterator[Run]:
    """Create a pod from a command (and pod or container fields); all are gone after the test."""
    made: list[str] = []

    def create(
        command: list[str],
        *,
        labels: Body | None = None,
        annotations: Body | None = None,
        pod: Body | None = None,
        **container: Any,
    ) -> str:
        name = f"pod-{uuid.uuid4().hex[:6]}"
        only = {"name": "c", "image": "tools:1", "command": command, "env": [POD_IP], **container}
        spec = {"terminationGracePeriodSeconds": 2, "containers": [only], **(pod or {})}
        metadata = {"name": name, "namespace": "default", "labels": labels or {}, "annotations": annotations or {}}
        cluster.wait(
            "the ServiceAccount", lambda: cluster.api.get("/api/v1/namespaces/default/serviceaccounts/default")
        )
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        made.append(name)
        return name

    yield create
    if made:
        cluster.kubectl("delete", "pod", *made, "--ignore-not-found", "--now")


def pod(cluster: LocalCluster, name: str) -> Body:
    return cluster.api.get(f"/api/v1/namespaces/default/pods/{name}")


def container(cluster: LocalCluster, name: str) -> Body:
    state: Body = pod(cluster, name)["status"]["containerStatuses"][0]
    return state


def is_ready(cluster: LocalCluster, name: str) -> bool:
    conditions = pod(cluster, name)["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def wait_ready(cluster: LocalCluster, name: str) -> None:
    cluster.wait(f"{name} ready", lambda: is_ready(cluster, name))


def processes(mark: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(mark in word for word in p.info["cmdline"] or ())]


def test_a_container_that_crashes_is_restarted_with_longer_and_longer_waits(cluster: LocalCluster, run: Run) -> None:
    name = run(
        ["python", "-c", "import os, sys; open(os.environ['LAST'], 'w').write('no luck'); sys.exit(7)"],
        env=[{"name": "LAST", "value": "/dev/termination-log"}],
    )
    looping = cluster.wait(
        "CrashLoopBackOff",
        lambda: (
            (seen := container(cluster, name))["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff" and seen
        ),
    )
    assert looping["restartCount"] >= 2
    assert looping["lastState"]["terminated"]["exitCode"] == 7
    assert looping["lastState"]["terminated"]["message"] == "no luck"


def test_a_pod_that_is_told_to_end_may_finish_within_its_grace(cluster: LocalCluster, run: Run, tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    time.sleep(0.5); open({str(tmp_path / 'said')!r}, 'w').write('goodbye'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
    )
    name = run(["python", "-c", program], pod={"terminationGracePeriodSeconds": 60})
    cluster.wait("it runs", lambda: "up" in cluster.logs("default", name))
    cluster.kubectl("delete", "pod", name)
    assert (tmp_path / "said").read_text() == "goodbye"


def test_a_pod_that_does_not_listen_is_killed_with_all_its_children(cluster: LocalCluster, run: Run) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    child = f"import time; time.sleep(600) # {mark}"
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); print('up', flush=True); time.sleep(600) # {mark}"
    )
    name = run(["python", "-c", program], pod={"terminationGracePeriodSeconds": 1})
    cluster.wait("both run", lambda: len(processes(mark)) == 2)
    cluster.kubectl("delete", "pod", name)
    cluster.wait("none is left", lambda: not processes(mark))


def test_kubectl_logs_shows_follows_and_remembers(cluster: LocalCluster, run: Run) -> None:
    name = run(["python", "-c", "import os, sys, time; print('run', flush=True); time.sleep(0.5); sys.exit(1)"])
    cluster.wait("a restart", lambda: container(cluster, name)["restartCount"] >= 1)
    assert cluster.logs("default", name, "--previous") == "run\n"
    talker = run(["python", "-c", "import time\nfor i in range(600): print(i, flush=True); time.sleep(0.1)"])
    cluster.wait("it talks", lambda: "3" in cluster.logs("default", talker).split())
    command = ["kubectl", "logs", "--follow", "--tail=1", talker]
    with subprocess.Popen(
        command, env=cluster.env({"PATH": "/usr/bin:/bin"}), stdout=subprocess.PIPE, text=True
    ) as follow:
        assert follow.stdout
        lines = [int(follow.stdout.readline()) for _ in range(4)]
        follow.kill()
    assert lines == list(range(lines[0], lines[0] + 4))


def test_a_service_routes_to_ready_pods_in_turn(cluster: LocalCluster, run: Run) -> None:
    app = f"web-{uuid.uuid4().hex[:6]}"
    service = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8000}]}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "default"}, "spec": service}
    )
    address = f"http://{cluster.object('service', app)['spec']['clusterIP']}:80/"

    def ask() -> str:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return str(answer.read().decode())

    def refused() -> bool:
        try:
            ask()
        except (urllib.error.URLError, ConnectionError):
            return True
        return False

    cluster.wait("refused without pods", refused)
    serve = (
        "import http.server as h, os\n"
        "class Who(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(os.environ['POD_IP'].encode())\n"
        "h.HTTPServer((os.environ['POD_IP'], 8000), Who).serve_forever()"
    )
    names = [run(["python", "-c", serve], labels={"app": app}, readinessProbe=READY_PROBE) for _ in range(2)]
    for name in names:
        wait_ready(cluster, name)
    addresses = {pod(cluster, name)["status"]["podIP"] for name in names}
    cluster.wait("both are routed", lambda: {ask() for _ in range(4)} == addresses)
    cluster.kubectl("delete", "pod", names[0], "--now")
    (left,) = addresses - {pod(cluster, names[1])["status"]["podIP"]} ^ addresses
    cluster.wait("only who is left is asked", lambda: {ask() for _ in range(4)} == {left})


def test_gpus_are_counted_by_the_real_scheduler(cluster: LocalCluster, run: Run) -> None:
    gpu = {"limits": {"nvidia.com/gpu": "1"}}
    names = [run(SLEEP, resources=gpu) for _ in range(3)]

    def stuck() -> list[str]:
        found = [pod(cluster, name)["status"].get("conditions", []) for name in names]
        return [c["message"] for conditions in found for c in conditions if c.get("reason") == "Unschedulable"]

    (message,) = cluster.wait("one waits", lambda: len(stuck()) == 1 and stuck())
    assert "Insufficient nvidia.com/gpu" in message


def test_volumes_are_where_the_arguments_say(cluster: LocalCluster, run: Run, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("from the claim")
    tmp_path.chmod(0o755)
    claim = f"claim-{uuid.uuid4().hex[:6]}"
    cluster.volume("default", claim, tmp_path)
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": claim, "namespace": "default"},
            "data": {"key": "from the map"},
        }
    )
    program = "import sys\nfor path in sys.argv[1:]: print(open(path).read(), flush=True)\nimport time; time.sleep(600)"
    name = run(
        ["python", "-c", program, "/models/word", "/config/key", "/info/name"],
        volumeMounts=[
            {"name": "models", "mountPath": "/models"}, {"name": "config", "mountPath": "/config"},
            {"name": "info", "mountPath": "/info"},
        ],
        pod={
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "config", "configMap": {"name": claim}},
                {"name": "info", "downwardAPI": {"items": [NAME_ITEM]}},
            ]
        },
    )  # fmt: skip
    cluster.wait(
        "all is read", lambda: cluster.logs("default", name).splitlines() == ["from the claim", "from the map", name]
    )


def test_a_projected_token_speaks_for_its_service_account(cluster: LocalCluster, run: Run) -> None:
    program = (
        "import os, ssl, sys, time, urllib.request, json\n"
        "folder = sys.argv[1]\n"
        "host = ':'.join(os.environ['KUBERNETES_SERVICE_' + word] for word in ('HOST', 'PORT'))\n"
        "body = json.dumps({'apiVersion': 'authentication.k8s.io/v1', 'kind': 'SelfSubjectReview'}).encode()\n"
        "url = 'https://' + host + '/apis/authentication.k8s.io/v1/selfsubjectreviews'\n"
        "request = urllib.request.Request(url, body,\n"
        "    {'Authorization': 'Bearer ' + open(folder + '/token').read(),\n"
        "     'Content-Type': 'application/json'})\n"
        "context = ssl.create_default_context(cafile=folder + '/ca.crt')\n"
        "answer = json.load(urllib.request.urlopen(request, context=context))\n"
        "print(answer['status']['userInfo']['username'], flush=True)\n"
        "time.sleep(600)"
    )
    sources = [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}]
    name = run(
        ["python", "-c", program, "/var/run/secrets/kubernetes.io/serviceaccount"],
        volumeMounts=[{"name": "identity", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        pod={
            "automountServiceAccountToken": False,
            "volumes": [{"name": "identity", "projected": {"sources": sources}}],
        },
    )
    cluster.wait("it is known", lambda: cluster.logs("default", name) == "system:serviceaccount:default:default\n")


def test_an_unknown_image_says_which_are_known_and_the_pod_can_go(cluster: LocalCluster, run: Run) -> None:
    name = run(SLEEP, image="nobody/knows:1")
    waiting = cluster.wait(
        "the image fails",
        lambda: (
            (seen := container(cluster, name)["state"].get("waiting", {})).get("reason")
            in {"ErrImagePull", "ImagePullBackOff"}
            and seen
        ),
    )
    assert "nobody/knows:1" in waiting["message"]
    assert "tools" in waiting["message"]
    cluster.kubectl("delete", "pod", name)


def test_a_pod_whose_volume_is_not_there_waits_and_can_go(cluster: LocalCluster, run: Run) -> None:
    name = run(
        SLEEP,
        volumeMounts=[{"name": "v", "mountPath": "/v"}],
        pod={"volumes": [{"name": "v", "configMap": {"name": "missing"}}]},
    )
    cluster.wait(
        "it says why",
        lambda: "FailedMount" in cluster.kubectl("get", "events", f"--field-selector=involvedObject.name={name}"),
    )
    cluster.kubectl("delete", "pod", name)


def test_an_optional_config_map_comes_when_it_is_made_and_changes_with_it(cluster: LocalCluster, run: Run) -> None:
    program = (
        "import os, sys, time\n"
        "seen = None\n"
        "while True:\n"
        "    now = {name: open(f'{sys.argv[1]}/{name}').read() for name in os.listdir(sys.argv[1]) if name[0] != '.'}\n"
        "    if now != seen: print(now, flush=True)\n"
        "    seen = now\n"
        "    time.sleep(0.1)\n"
    )
    name = run(
        ["python", "-c", program, "/v"],
        volumeMounts=[{"name": "v", "mountPath": "/v"}],
        pod={"volumes": [{"name": "v", "configMap": {"name": "late", "optional": True}}]},
    )
    cluster.wait("it runs without", lambda: cluster.logs("default", name) == "{}\n")
    late = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "default"}}
    for word in ("first", "second"):
        cluster.apply({**late, "data": {"word": word}})
        cluster.wait(word, lambda word=word: cluster.logs("default", name).endswith(f"{{'word': '{word}'}}\n"))
    cluster.kubectl("delete", "configmap", "late")


def test_a_liveness_failure_restarts_the_container(cluster: LocalCluster, run: Run) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    name = run(SLEEP, livenessProbe=probe)
    cluster.wait("a restart", lambda: container(cluster, name)["restartCount"] >= 1)
    told = ("get", "events", f"--field-selector=involvedObject.name={name}")
    cluster.wait("it is told", lambda: "Liveness probe failed" in cluster.kubectl(*told))


def test_init_containers_run_before_and_in_order(cluster: LocalCluster, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "order"

    def note(word: str) -> list[str]:
        return ["python", "-c", f"open({str(log)!r}, 'a').write({word!r})"]

    initial = [{"name": word, "image": "tools", "command": note(word)} for word in ("a", "b")]
    name = run([*note("c")[:2], f"{note('c')[2]}; import time; time.sleep(600)"], pod={"initContainers": initial})
    wait_ready(cluster, name)
    cluster.wait("the order", lambda: log.read_text() == "abc")


def test_a_rehearsed_cold_start_delays_the_first_instruction(cluster: LocalCluster, run: Run) -> None:
    slow = run(SLEEP, annotations={"cluster.headrace.dev/start-delay": "3600"})
    quick = run(SLEEP)
    wait_ready(cluster, quick)
    assert pod(cluster, slow)["status"]["phase"] == "Pending"
    cluster.kubectl("delete", "pod", slow)


def test_a_lost_node_takes_its_processes_along(cluster: LocalCluster, run: Run) -> None:
    cluster.start_node("spare")
    mark = f"mark-{uuid.uuid4().hex}"
    run(
        ["python", "-c", f"import time; time.sleep(600) # {mark}"],
        pod={"nodeName": "spare", "terminationGracePeriodSeconds": 2},
    )
    cluster.wait("it runs", lambda: len(processes(mark)) == 1)
    psutil.Process(cluster.program("node spare").pid).kill()
    cluster.stop_node("spare")  # returns when all that the agent left behind is gone
    assert not processes(mark)
    cluster.start_node("spare")
    cluster.wait("a new agent runs the pod again", lambda: len(processes(mark)) == 1)
