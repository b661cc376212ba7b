"""ControllerRevisions to Revisions: what pods of this very object are made from."""

from collections.abc import Iterable, Mapping
from typing import Any

from headrace_operator.decide import manifests
from headrace_operator.decide.values import Revision

Body = Mapping[str, Any]


def recorded(bodies: Iterable[Body], uid: str) -> tuple[Revision, ...]:
    """Of the InferenceDeployment with this UID, oldest first. One of the same name may have left records behind that
    the garbage collector has not reached yet."""
    own = (_revision(body) for body in bodies if _owner(body) == uid)
    return tuple(sorted(own, key=lambda revision: revision.number))


def _revision(body: Body) -> Revision:
    metadata = body["metadata"]
    return Revision(
        hash=metadata["labels"][manifests.REVISION_LABEL],
        number=body["revision"],
        name=metadata["name"],
        uid=metadata["uid"],
        spec=body["data"]["spec"],
        metadata=body["data"]["metadata"],
    )


def _owner(body: Body) -> str | None:
    owners = [owner["uid"] for owner in body["metadata"].get("ownerReferences", []) if owner.get("controller")]
    return owners[0] if owners else None
