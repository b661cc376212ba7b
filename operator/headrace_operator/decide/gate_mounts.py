"""How the release gate's report comes into a pod: a ConfigMap as a volume. The server reads it before the model.

A report that is not there is the server's to refuse, in words that reach the status: a volume that must be there would
keep the pod waiting, and only its events would say for what. The path, and so those words, have the ConfigMap's name.
"""

from collections.abc import Sequence
from typing import Any

from headrace_operator.gate_fields import GateReport

Body = dict[str, Any]
NAME = "gate-report"
FOLDER = "/etc/headrace/gate-report"


def volumes(report: GateReport | None) -> list[Body]:
    return [] if report is None else [{"name": NAME, "configMap": {"name": report.config_map, "optional": True}}]


def volume_mounts(report: GateReport | None) -> list[Body]:
    return [] if report is None else [{"name": NAME, "mountPath": _folder(report), "readOnly": True}]


def arguments(report: GateReport | None, public_keys: Sequence[str]) -> list[str]:
    """For `headrace serve`. `public_keys`: one's owner must have signed the report; none: nobody must."""
    if report is None:
        return []
    return [f"--gate-report={_folder(report)}/{report.key}", *(f"--gate-public-key={key}" for key in public_keys)]


def _folder(report: GateReport) -> str:
    return f"{FOLDER}/{report.config_map}"
