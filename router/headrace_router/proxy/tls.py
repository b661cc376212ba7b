"""The parts of Envoy's configuration that say TLS: certificates come from files that may change."""

from pathlib import Path
from typing import Any

from headrace_router.proxy.certificates import OWN, REPLICAS

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
Config = dict[str, Any]


def listening(secret: Path) -> Config:
    """Of a listener."""
    common = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificate_sds_secret_configs": [_secret(OWN, secret)]}
    return _socket("DownstreamTlsContext", {"common_tls_context": common})


def calling(secret: Path, name: str, protocol: str) -> Config:
    """Of a cluster whose certificates must have `name` and be signed by an authority in `secret`."""
    checked = {
        "default_validation_context": {
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}]
        },
        "validation_context_sds_secret_config": _secret(REPLICAS, secret),
    }
    common = {"alpn_protocols": [protocol], "combined_validation_context": checked}
    return _socket("UpstreamTlsContext", {"sni": name, "common_tls_context": common})


def _socket(kind: str, config: Config) -> Config:
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": TYPE + kind, **config}}
    }


def _secret(name: str, file: Path) -> Config:
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": str(file)}}}
