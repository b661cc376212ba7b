"""What stands beside the pods: touched, left over, or unknown because it could not be listed. A list plays the API."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_operator.decide.routing import Child
from headrace_operator.kube import KubeError
from headrace_operator.observe.standing import Standing

OWNER = {"kind": "InferenceDeployment", "name": "chat", "uid": "chat-uid", "controller": True}


class Lists:
    """The objects of each kind by the last word of their path; a number instead refuses with that status."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]] | int] = {}
        self.version = 100

    async def pages(self, path: str, **_: str) -> AsyncIterator[dict[str, Any]]:
        found = self.objects.get(path.rsplit("/", 1)[-1], [])
        if isinstance(found, int):
            raise KubeError(found, "refused")
        yield {"metadata": {"resourceVersion": str(self.version)}, "items": found}


@pytest.fixture
def lists() -> Lists:
    return Lists()


@pytest.fixture
def standing(lists: Lists) -> Standing:
    return Standing(lists, ())  # type: ignore[arg-type]


def stored(kind: str, name: str = "chat-router", version: int = 7, **metadata: Any) -> dict[str, Any]:
    usual = {"namespace": "default", "name": name, "uid": f"{kind}-{name}", "resourceVersion": str(version)}
    return {"kind": kind, "metadata": {**usual, "ownerReferences": [OWNER], **metadata}}


async def test_what_is_as_it_was_written_is_not_touched(lists: Lists, standing: Standing) -> None:
    service = stored("Service")
    standing.wrote(service)
    lists.objects["services"] = [service]
    await standing.look()
    assert not standing.is_touched("default", "chat")


@pytest.mark.parametrize(
    "there",
    [
        pytest.param([], id="deleted"),
        pytest.param([stored("Service", version=9)], id="changed"),
        pytest.param([stored("Service", ownerReferences=[])], id="taken from its owner"),
    ],
)
async def test_what_somebody_touched_is_touched_until_it_is_written_again(
    lists: Lists, standing: Standing, there: list[dict[str, Any]]
) -> None:
    standing.wrote(stored("Service"))
    lists.objects["services"] = list(there)
    await standing.look()
    assert standing.is_touched("default", "chat")
    standing.wrote(stored("Service", version=101))
    assert not standing.is_touched("default", "chat")


async def test_a_list_that_is_older_than_what_was_written_proves_nothing(lists: Lists, standing: Standing) -> None:
    standing.wrote(stored("Deployment", version=200))
    await standing.look()
    assert not standing.is_touched("default", "chat")


async def test_what_others_made_before_is_known_by_its_owner(lists: Lists, standing: Standing) -> None:
    lists.objects["deployments"] = [stored("Deployment"), stored("Deployment", "theirs", ownerReferences=[])]
    await standing.look()
    left = Child("Deployment", "chat-router", "Deployment-chat-router")
    assert standing.children("chat-uid") == [left]
    standing.removed("default", "chat-uid", left)
    assert standing.children("chat-uid") == []
    assert standing.children("another") == []


async def test_what_was_just_written_is_known_at_once(standing: Standing) -> None:
    standing.wrote(stored("RoleBinding"))
    assert standing.children("chat-uid") == [Child("RoleBinding", "chat-router", "RoleBinding-chat-router")]
    standing.forget("default", "chat")
    assert standing.children("chat-uid") == []


async def test_what_is_made_in_the_place_of_what_goes_stays_known(standing: Standing) -> None:
    old = {**stored("RoleBinding"), "roleRef": {"name": "headrace-router"}}
    standing.wrote(old)
    (before,) = standing.children("chat-uid")
    assert before.role == "headrace-router"
    standing.wrote({**stored("RoleBinding", version=9, uid="new"), "roleRef": {"name": "prod-headrace-router"}})
    standing.removed("default", "chat-uid", before)
    assert standing.children("chat-uid") == [Child("RoleBinding", "chat-router", "new", "prod-headrace-router")]


@pytest.mark.parametrize("status", [403, 500])
async def test_what_cannot_be_listed_is_as_it_was(lists: Lists, standing: Standing, status: int) -> None:
    lists.objects["deployments"] = [stored("Deployment")]
    await standing.look()
    standing.wrote(stored("Service"))
    lists.objects = {"deployments": status, "services": [stored("Service", version=9)]}
    await standing.look()
    assert Child("Deployment", "chat-router", "Deployment-chat-router") in standing.children("chat-uid")
    assert standing.is_touched("default", "chat"), "the other kinds are looked at all the same"


async def test_a_kind_that_the_api_server_does_not_have_is_none_of_ours(lists: Lists, standing: Standing) -> None:
    lists.objects["inferencepools"] = 404
    await standing.look()
    assert standing.children("chat-uid") == []
