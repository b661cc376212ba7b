"""What the operator can do to the cluster, as values: a plan is a list of them."""

from dataclasses import dataclass

from headrace_operator.decide.manifests import Body
from headrace_operator.decide.reasons import Announcement, Reason


@dataclass(frozen=True, slots=True)
class ApplyService:
    body: Body


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Recorded once: the API server refuses to change it."""

    body: Body


@dataclass(frozen=True, slots=True)
class DeleteRevision:
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class CreatePod:
    body: Body


@dataclass(frozen=True, slots=True)
class Unroute:
    """Take a pod out of the Service; it is deleted ROUTE_SETTLE later."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """The server drains on SIGTERM within the pod's grace period."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Announce:
    """A Kubernetes event on the custom resource."""

    reason: Reason | Announcement
    message: str
    is_warning: bool = False


Action = ApplyService | CreateRevision | DeleteRevision | CreatePod | Unroute | DeletePod | Announce
