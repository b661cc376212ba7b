"""Bounds and routers of `headrace simulate`: of its options, or of an object where no option says otherwise."""

import argparse
from dataclasses import replace

from headrace_operator.errors import OperatorError
from headrace_operator.routing_fields import LONGEST_HOLD, MOST_HELD, MOST_ROUTERS, Hold, Routing
from headrace_operator.service import InferenceDeployment, Scaling
from headrace_operator.simulate.policies import reaches_zero
from headrace_operator.simulate.routers import Routers

LEAST, MOST = 4, 64  # replicas
# The CRD's defaults.
USUAL = Scaling(LEAST, MOST, queue_wait_target=0.5, utilization=0.7, scale_down_window=300.0)


class InvalidOption(OperatorError):
    """Options that contradict each other, or the rest of the input."""


def scaling(options: argparse.Namespace, known: InferenceDeployment | None) -> Scaling:
    """Raises InvalidOption."""
    usual = USUAL if known is None else known.scaling
    least = usual.min_replicas if options.min_replicas is None else options.min_replicas
    most = usual.max_replicas if options.max_replicas is None else options.max_replicas
    if least > most:
        raise InvalidOption(f"--min-replicas {least} must not exceed --max-replicas {most}")
    if options.interval <= 0:
        raise InvalidOption("--interval must be longer than 0s")
    wanted = replace(usual, min_replicas=least, max_replicas=most)
    if options.idle_timeout is None:
        return wanted
    if not reaches_zero(wanted):
        raise InvalidOption("--idle-timeout is for the last replica's leave; give --min-replicas 0, too")
    if options.idle_timeout <= 0:
        raise InvalidOption("--idle-timeout must be longer than 0s")
    return replace(wanted, idle_timeout=options.idle_timeout)


def routers(options: argparse.Namespace, wanted: Scaling, known: InferenceDeployment | None) -> Routers | None:
    """None where nobody holds requests. Raises InvalidOption."""
    way = Routing() if known is None else known.routing
    if options.routers is None and not way.holds and not reaches_zero(wanted):
        for flag, value in (("--hold-requests", options.hold_requests), ("--hold-timeout", options.hold_timeout)):
            if value is not None:
                raise InvalidOption(f"{flag} is for routers; give --routers or --min-replicas 0, too")
        return None
    hold = Hold(
        requests=way.hold.requests if options.hold_requests is None else options.hold_requests,
        timeout=way.hold.timeout if options.hold_timeout is None else options.hold_timeout,
    )
    number = way.replicas if options.routers is None else options.routers
    if number > MOST_ROUTERS:
        raise InvalidOption(f"--routers must be at most {MOST_ROUTERS}, not {number}")
    if hold.requests > MOST_HELD:
        raise InvalidOption(f"--hold-requests must be at most {MOST_HELD}, not {hold.requests}")
    if hold.timeout > LONGEST_HOLD:
        raise InvalidOption(f"--hold-timeout must be at most 1h, not {hold.timeout:g}s")
    return Routers(number, hold)
