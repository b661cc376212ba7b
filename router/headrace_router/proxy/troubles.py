"""Why replicas cannot be spoken to, in the log: whose certificate has expired shows nowhere else."""

import logging
from dataclasses import dataclass, field

from headrace_router.proxy.access_log import Over

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Troubles:
    said: dict[str, str] = field(default_factory=dict)  # by replica: once, until it is reached or another one comes

    def heard(self, told: Over) -> None:
        if told.reached:
            self.said.pop(told.host, None)
        elif told.trouble and self.said.get(told.host) != told.trouble:
            self.said[told.host] = told.trouble
            words = told.trouble.replace("_", " ")  # Envoy's log has no spaces in a field
            log.warning("replica %s cannot be spoken to: %s", told.host, words)

    def forget(self) -> None:
        """The replicas are others now."""
        self.said.clear()
