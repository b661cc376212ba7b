"""What a manifest may say of tenants: a ConfigMap with what each may have, which the kubelet mounts."""

from dataclasses import dataclass

from headrace_operator.fields import Section

USUAL_KEY = "tenants.json"


@dataclass(frozen=True, slots=True)
class Tenants:
    config_map: str | None = None  # name, in the deployment's own namespace; None = nobody has limits or a weight
    key: str = USUAL_KEY  # within its data
    trust_header: bool = False  # the header x-headrace-tenant names them: only behind a gateway that sets it


def tenants(given: Section) -> Tenants:
    """Raises InvalidSpec."""
    return Tenants(
        config_map=given.text_if_given("configMapName"),
        key=given.text_if_given("key") or USUAL_KEY,
        trust_header=given.flag("trustHeader"),
    )
