"""What the operator asks of a router, from the status of the InferenceDeployment. A router does without it, too."""

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kubernetes.aio import client

from headrace_router.observe.pods import GROUP, Replicas
from headrace_router.observe.watched import Listing, objects
from headrace_router.values import Guidance

VERSION, PLURAL = "v1alpha1", "inferencedeployments"
log = logging.getLogger(__name__)


async def followed(api: client.ApiClient, replicas: Replicas) -> AsyncIterator[Guidance]:
    """Whenever something may have changed. Never ends, and raises nothing but what cancels it."""
    custom = client.CustomObjectsApi(api)
    listing = Listing(
        "deployment that the replicas belong to",
        custom.list_namespaced_custom_object_without_preload_content, custom.list_namespaced_custom_object,
        (GROUP, VERSION, replicas.namespace, PLURAL), {"field_selector": f"metadata.name={replicas.deployment}"},
    )  # fmt: skip
    async for bodies in objects(listing):
        for body in bodies.values():
            try:
                yield guidance(body.get("status", {}))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("status of %s is not understood, what it said before holds: %s", replicas.deployment, error)


def guidance(status: Mapping[str, Any]) -> Guidance:
    """Raises ValueError, KeyError, TypeError or AttributeError where it is not what the operator writes."""
    told = status.get("startup", {}).get("p95Seconds")
    routing = status.get("routing", {})
    return Guidance(
        start_seconds=None if told is None else float(told),
        shares=tuple((each["revision"], share(each["share"])) for each in routing.get("shares", ())),
        mirror_share=share(routing.get("mirror", {}).get("share", "0%")),
    )


def share(text: str) -> float:
    """Of "10%", 0.1. Raises ValueError."""
    percent = float(text.removesuffix("%"))
    if not (text.endswith("%") and 0 <= percent <= 100):
        raise ValueError(f"{text!r} is not a share; must be from 0% to 100%")
    return percent / 100
