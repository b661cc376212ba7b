"""`make demo`. Exit status 0 only if no request failed and scaling happened in both directions."""

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster import LocalCluster, NodeShape

from demo import story
from demo.users import Doors

RUSH = 75.0  # seconds of overload: two cold starts and a few connection ages
REST = 300.0  # seconds at most until minReplicas again: scale-down window, drain, slack
USERS = 16


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running afterwards and print how to use it"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as directory:
        say("Starting a real control plane, and two nodes with 2 GPUs each ...")
        nodes = (NodeShape("gpu-a", gpus=2), NodeShape("gpu-b", gpus=2))
        with LocalCluster(Path(directory), nodes=nodes, images=story.IMAGES, report=say) as cluster:
            outcome = play(cluster)
            say(f"\nThe whole demo took {time.monotonic() - started:.0f} s.")
            if options.keep:
                keep(cluster)
    for promise in outcome.broken_promises:
        say(f"BROKEN: {promise}")
    return 1 if outcome.broken_promises else 0


def play(cluster: LocalCluster) -> story.Outcome:
    step("helm install headrace charts/headrace --namespace headrace-system --create-namespace --wait")
    story.install(cluster)
    say(cluster.kubectl("get", "pods", "-n", story.RELEASE_NAMESPACE))

    step(f"kubectl apply -f examples/{story.MANIFEST.name}")
    story.apply(cluster)
    cluster.kubectl("wait", "--for=condition=Ready", f"infdep/{story.NAME}", "--timeout=600s")
    say(cluster.kubectl("get", "infdep"))

    place = story.doors(cluster)
    step(f'headrace complete --target {place.grpc} "In the beginning"')
    subprocess.run(
        [
            story.ROOT / ".venv/bin/headrace",
            "complete",
            "--target",
            place.grpc,
            "--max-new-tokens",
            "48",
            "In the beginning",
        ],
        check=True,
    )
    step(f'OpenAI(base_url="{place.http}/v1").completions.create(...)')
    say(openai_completion(place))

    outcome = asyncio.run(story.rush_and_rest(cluster, say, users=USERS, rush=RUSH, rest=REST))

    step("kubectl get events --field-selector involvedObject.kind=InferenceDeployment")
    events = (
        "get",
        "events",
        "--field-selector",
        "involvedObject.kind=InferenceDeployment",
        "--sort-by=.lastTimestamp",
    )
    say(cluster.kubectl(*events, "-o", "custom-columns=REASON:.reason,MESSAGE:.message"))
    step("kubectl get infdep")
    say(cluster.kubectl("get", "infdep"))
    say(summary(outcome))
    return outcome


def openai_completion(place: Doors) -> str:
    from openai import OpenAI

    client = OpenAI(base_url=f"{place.http}/v1", api_key="unused")
    stream = client.completions.create(
        model=place.model, prompt="And the king said unto", max_tokens=48, temperature=0.8, seed=7, stream=True
    )
    return "And the king said unto" + "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def summary(outcome: story.Outcome) -> str:
    answers = outcome.answers
    waits = sorted(answers.queue_waits)
    p50, p95 = (
        (statistics.median(waits), waits[int(0.95 * (len(waits) - 1))]) if waits else (float("nan"), float("nan"))
    )
    return "\n".join(
        [
            "\nSummary",
            f"  requests    {answers.sent} sent, {answers.failed} failed, {answers.tokens} tokens streamed",
            f"  queue wait  p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms (gRPC, by the server's clock)",
            f"  replicas    from {outcome.min_replicas} to {outcome.timeline.peak_ready} to {outcome.ready_at_end}",
            outcome.timeline.plot(),
        ]
    )


def step(command: str) -> None:
    say(f"\n$ {command}")


def keep(cluster: LocalCluster) -> None:
    say(f"""
Still running. In another terminal:

  export KUBECONFIG={cluster.kubeconfig}
  export PATH={cluster.env({})["PATH"]}:$PATH

  kubectl get infdep -w
  kubectl describe infdep {story.NAME}
  kubectl logs -l headrace.dev/deployment={story.NAME} -f

Ctrl-C ends it.""")
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("\nStopping.")


if __name__ == "__main__":
    sys.exit(main())
