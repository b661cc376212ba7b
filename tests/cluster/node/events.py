"""Events as a kubelet writes them. One that cannot be written is logged: it is news, not state."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

import aiohttp

from cluster.node.api import Api, ApiError
from cluster.node.clock import timestamp

logger = logging.getLogger(__name__)


class Events:
    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, pod: Mapping[str, Any], reason: str, message: str, *, is_warning: bool = False) -> None:
        """Returns at once; the event is written in the background."""
        logger.info("%s/%s %s: %s", pod["metadata"]["namespace"], pod["metadata"]["name"], reason, message)
        task = asyncio.create_task(self._write(pod["metadata"], reason, message, "Warning" if is_warning else "Normal"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, metadata: Mapping[str, Any], reason: str, message: str, kind: str) -> None:
        about = {
            "apiVersion": "v1", "kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"],
            "uid": metadata["uid"],
        }  # fmt: skip
        body = {
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
            "involvedObject": about,
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "count": 1,
            "firstTimestamp": timestamp(),
            "lastTimestamp": timestamp(),
            "source": {"component": "kubelet", "host": self._node},
        }
        try:
            await self._api.create(f"/api/v1/namespaces/{metadata['namespace']}/events", body)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("event lost: %s", error)
