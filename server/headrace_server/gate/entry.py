"""A server that was given a gate's report loads the model that passed it, served as it was measured, and no other."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_server.config import GateConfig
from headrace_server.errors import ModelRefused
from headrace_server.evaluation import BadFile
from headrace_server.gate.machine import moved, with_gpu
from headrace_server.gate.options import differences
from headrace_server.gate.report import Signers, model_digest, objections, public_key_of_line, read_report
from headrace_server.telemetry.gpu import GpuName

REMEDY = "give the report of a `headrace gate run` of this model with these options (docs/gate.md)"
log = logging.getLogger(__name__)


def check(gate: GateConfig, model: Path, draft_model: Path | None) -> Mapping[str, Any]:
    """The body of the report. Raises ModelRefused."""
    try:
        report = read_report(gate.report)
    except OSError as error:
        raise ModelRefused(f"--gate-report={gate.report}: {error.strerror}; {REMEDY}") from error
    except BadFile as broken:
        raise ModelRefused(f"--gate-report={broken}; {REMEDY}") from broken
    body: Mapping[str, Any] = report["body"]
    # A model may be hundreds of gigabytes: it is read only where nothing else is wrong.
    found = objections(report, None, _signers(gate)) + differences(body, gate.options)
    found = found or objections(report, _digest(model), None) + _other_draft(body, draft_model)
    if found:
        raise ModelRefused(f"--gate-report={gate.report}: {'; '.join(found)}; {REMEDY}")
    return body


def tell_if_moved(body: Mapping[str, Any], gpu: GpuName | None) -> None:
    """Another machine is no reason to refuse: the answers are those that were judged, and only as fast as it can.

    `gpu`: that which computes; None: a CPU does.
    """
    if where := moved(body, with_gpu(None if gpu is None else gpu.model)):
        log.warning(
            "--gate-report: measured on %s, served on %s: quality holds here, what was measured of load may not", *where
        )


def _other_draft(body: Mapping[str, Any], draft_model: Path | None) -> list[str]:
    if draft_model is None:
        return []
    before, now = body.get("draft_model_digest"), _digest(draft_model)
    return [] if before == now else [f"its --draft-model was another one: {before}, not {now}"]


def _signers(gate: GateConfig) -> Signers | None:
    """None: nobody has to have signed."""
    keys = tuple(map(public_key_of_line, gate.public_keys))
    return Signers(keys, "a key of --gate-public-key") if keys else None


def _digest(model: Path) -> str:
    try:
        return model_digest(model)
    except OSError as error:
        raise ModelRefused(f"{error.filename}: {error.strerror}; name a folder that the server can read") from error
