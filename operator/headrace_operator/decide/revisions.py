"""What a user asked for, kept word for word: a pod is made from the record of its revision, today and a year later.

The hash is of the manifest's own words only. An upgraded operator, with another default image or another way to write a
pod, makes no new revision and so touches no pod; and a rollback can make pods that the manifest no longer describes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from typing import Any

from headrace_operator.decide import manifests
from headrace_operator.decide.actions import Action, CreateRevision, DeleteRevision
from headrace_operator.decide.manifests import Body
from headrace_operator.decide.values import Observed
from headrace_operator.service import InferenceDeployment

KIND = "ControllerRevision"
API_VERSION = "apps/v1"
KEPT = 3  # the newest records stay, so that going back to one brings back exactly its pods
# Everything else in an InferenceDeployment describes a pod.
NOT_OF_A_POD = frozenset({"namespace", "name", "uid", "generation", "scaling", "rollout", "routing"})


@lru_cache(maxsize=4096)  # several times at every look, and each took 0.15 ms
def asked(deployment: InferenceDeployment) -> str:
    """Eight hex digits of what the manifest says about a pod; bounds, targets and the rollout itself are not in it."""
    said = {name: value for name, value in _said(deployment).items() if name not in NOT_OF_A_POD}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def _said(value: Any) -> Any:
    """Without what is at its default: a field that a later version adds changes no hash until somebody sets it."""
    if is_dataclass(value):
        known = {field.name: (getattr(value, field.name), _default(field)) for field in fields(value)}
        return {name: _said(given) for name, (given, default) in known.items() if given != default}
    return [_said(entry) for entry in value] if isinstance(value, tuple | list) else value


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def body(deployment: InferenceDeployment, image: str, observed: Observed, gate_keys: Sequence[str] = ()) -> Body:
    """The record of what is asked now, as the API server keeps it; its `data` can never be changed."""
    number = max((known.number for known in observed.revisions), default=0) + 1
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": manifests.record_metadata(deployment, asked(deployment)),
        "revision": number,
        "data": manifests.template(deployment, image, gate_keys),
    }


def keep(
    deployment: InferenceDeployment,
    image: str,
    observed: Observed,
    in_use: Iterable[str] = (),
    gate_keys: Sequence[str] = (),
) -> list[Action]:
    """A record for what is asked now, before any pod of it; and no records that nobody could need again.

    `in_use`: hashes that a rollout may come back to. Those of living pods are in use in any case.
    """
    wanted = asked(deployment)
    if observed.revision(wanted) is None:
        return [CreateRevision(body(deployment, image, observed, gate_keys))]
    used = {wanted, *in_use, *(pod.revision for pod in observed.everybody)}
    newest = sorted(observed.revisions, key=lambda known: -known.number)
    return [DeleteRevision(old.name, old.uid) for old in newest[KEPT:] if old.hash not in used]
