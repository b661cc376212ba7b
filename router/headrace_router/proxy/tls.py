"""The parts of Envoy's configuration that say TLS: certificates come from files that may change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trusted:
    """Replicas whose certificates must have `name` and be signed by an authority in a secret of Envoy."""

    secret: str
    file: Path  # where Envoy reads that secret
    name: str


def listening(name: str, secret: Path) -> Config:
    """Of a listener."""
    common = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificate_sds_secret_configs": [_secret(name, secret)]}
    return _socket("DownstreamTlsContext", {"common_tls_context": common})


def calling(trusted: Trusted, protocol: str) -> Config:
    """Of a cluster."""
    checked = {
        "default_validation_context": {
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": trusted.name}}]
        },
        "validation_context_sds_secret_config": _secret(trusted.secret, trusted.file),
    }
    # Of itself Envoy calls by TLS 1.2, in which a certificate's key has to be on one of its curves: not on P-384.
    params = {"tls_maximum_protocol_version": "TLSv1_3"}
    common = {"alpn_protocols": [protocol], "combined_validation_context": checked, "tls_params": params}
    return _socket("UpstreamTlsContext", {"sni": trusted.name, "common_tls_context": common})


def _socket(kind: str, config: Config) -> Config:
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": TYPE + kind, **config}}
    }


def _secret(name: str, file: Path) -> Config:
    return {"name": name, "sds_config": {"resource_api_version": "V3", "path_config_source": {"path": str(file)}}}
