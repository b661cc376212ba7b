"""A status as the operator writes it and the API server keeps it, of a load in words."""

import json
import time
from typing import Any

from headrace_operator.decide.history import History
from headrace_operator.decide.status import Tick, status
from observations import decided, deployment, observed, signals

Body = dict[str, Any]


def status_of(ready: int, *, before: Body | None = None, **seen: Any) -> Body:
    """`seen`: fields of `signals`, such as load=1.9, times what `ready` replicas carry."""
    tick = Tick(deployment(), "image:1", observed(ready), decided(ready, signals(ready, **seen)), History(), now())
    kept: Body = json.loads(json.dumps(_without_nothing(status(tick, before or {}))))
    return kept


def now() -> float:
    return time.time()  # noqa: TID251 - what is long ago is shown as such


def _without_nothing(found: Any) -> Any:
    """In a merge patch, None removes a key."""
    if isinstance(found, dict):
        return {key: _without_nothing(value) for key, value in found.items() if value is not None}
    return [_without_nothing(item) for item in found] if isinstance(found, list) else found
