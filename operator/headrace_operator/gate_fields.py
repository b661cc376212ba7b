"""What a manifest may say of the release gate: a ConfigMap with the model's report, which the kubelet mounts."""

from dataclasses import dataclass

from headrace_operator.fields import Section

USUAL_KEY = "report.json"


@dataclass(frozen=True, slots=True)
class GateReport:
    config_map: str  # name, in the deployment's own namespace
    key: str = USUAL_KEY  # within its data


def gate_report(given: Section) -> GateReport:
    """Raises InvalidSpec."""
    return GateReport(given.text("configMapName"), given.text_if_given("key") or USUAL_KEY)
