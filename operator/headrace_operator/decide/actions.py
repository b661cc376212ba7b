"""What the operator can do to the cluster, as values: a plan is a list of them."""

from dataclasses import dataclass

from headrace_operator.decide.manifests import Body
from headrace_operator.decide.ports import ADMIN_PORT
from headrace_operator.decide.reasons import Announcement, Reason


@dataclass(frozen=True, slots=True)
class ApplyService:
    body: Body


@dataclass(frozen=True, slots=True)
class ApplyBudget:
    body: Body


@dataclass(frozen=True, slots=True)
class ApplyRouting:
    """One of the objects that spec.routing asks for."""

    body: Body


@dataclass(frozen=True, slots=True)
class DeleteRouting:
    """One that it asked for, and asks for no more."""

    kind: str
    name: str
    uid: str


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
    """Take a pod out of the Service; it is drained and deleted later."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Promote:
    """A standby becomes a replica: routed as soon as it is Ready."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Demote:
    """A replica that serves nobody becomes a standby."""

    name: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Have an unrouted pod finish what it has. May be repeated, and may fail: SIGTERM drains as well."""

    name: str
    uid: str
    address: str  # IP
    port: int = ADMIN_PORT


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


Action = (
    ApplyService | ApplyBudget | ApplyRouting | DeleteRouting | CreateRevision | DeleteRevision
    | CreatePod | Unroute | Promote | Demote | Drain | DeletePod | Announce
)  # fmt: skip
