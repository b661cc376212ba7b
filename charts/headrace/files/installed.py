"""`helm test`: does the API server know InferenceDeployments, and does an operator hold the Lease and renew it?

Runs in a pod of the operator's image, with a service account that may read that one Lease and nothing else.
"""

import json
import os
import ssl
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds for a first leader
FRESH = 15.0  # seconds; a leader renews every 2


def get(path: str) -> dict[str, Any]:
    account = Path(os.environ["HEADRACE_SERVICE_ACCOUNT_DIR"])  # noqa: TID251 - this is a program of its own
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]  # noqa: TID251
    request = urllib.request.Request(
        f"https://{f'[{host}]' if ':' in host else host}:{port}{path}",
        headers={"Authorization": f"Bearer {(account / 'token').read_text()}"},
    )
    trusted = ssl.create_default_context(cafile=str(account / "ca.crt"))
    with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def missing(namespace: str, lease: str) -> str | None:
    """What is not as it should be, or None. Raises OSError where the API server does not answer or refuses."""
    resources = {resource["name"] for resource in get("/apis/headrace.dev/v1alpha1")["resources"]}
    if not {"inferencedeployments", "inferencedeployments/status", "inferencedeployments/scale"} <= resources:
        return f"the API server serves only {', '.join(sorted(resources))} of headrace.dev/v1alpha1; upgrade the CRD"
    spec = get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease}")["spec"]
    age = (datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])).total_seconds()  # noqa: TID251
    if not spec.get("holderIdentity") or age > FRESH:
        return f"no operator leads: the Lease {lease} was renewed {age:.0f} s ago; see `kubectl logs deploy/{lease}`"
    print(f"{spec['holderIdentity']} leads, and the API server knows InferenceDeployments")  # noqa: T201
    return None


def main() -> int:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            said = missing(*sys.argv[1:3])
        except OSError as error:
            said = str(error)
        if said is None:
            return 0
        if time.monotonic() > until:
            print(said, file=sys.stderr)  # noqa: T201
            return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
