"""Envoy's configuration, as values: two listeners, the question to the picker, and the replicas that a file lists.

What Envoy decides itself: when to try the next of the replicas that the picker named, which is only before a response
begins, and where to send when the picker does not answer: to the replica with the fewest requests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from headrace_router.proxy import tls
from headrace_router.proxy.certificates import OWN
from headrace_router.values import Door, Endpoint

STREAM_HEADER = "x-request-id"  # in the question: Envoy's name of one request, as in the access log
CLIENT_ID_HEADER = "x-headrace-client-request-id"  # where the client's own x-request-id stands meanwhile
ENDPOINT_HEADER = "x-headrace-endpoint"  # the picker's answer: hosts, the first one first
MIRROR_HEADER = "x-headrace-mirror"  # likewise: the cluster that gets a copy
HOP_HEADER = "x-headrace-hop"  # likewise: through Python, for the reason that it says
CHOSEN_HEADER = "x-headrace-chosen-model"  # likewise: whose replicas they are, where there are several models
ANSWERS = (ENDPOINT_HEADER, MIRROR_HEADER, HOP_HEADER, CHOSEN_HEADER)
LENGTH_HEADER = "x-headrace-request-bytes"
PROGRESS_HEADER = "x-headrace-progress"  # of a client: `comments`, to hear how long a stream has to wait
ANY_MODEL_HEADER = "x-headrace-any-model"  # to replicas: we chose among several; OpenAI's `model` does not count
FAIRNESS_HEADER = "x-gateway-inference-fairness-id"  # of the Gateway API inference extension
# Paths whose prompt decides where they go. Envoy waits for the beginning of their body, so no stream in both directions
# may stand here: its client waits for an answer before it goes on.
PROMPTED = {
    Door.GRPC: ("/headrace.v1.Inference/Generate", "/headrace.v1.Inference/GenerateBatch"),
    Door.HTTP: ("/v1/completions", "/v1/chat/completions"),
}
BODY_BYTES = 8192  # of a body that the picker sees
BUFFER_BYTES = 1 << 20  # of a body that Envoy keeps, to send it again elsewhere; a longer one is sent once
RETRY_ON = "reset,connect-failure,refused-stream,unavailable,retriable-status-codes"
RETRIES = 2
HEADERS_KB = 64
TYPE = "type.googleapis.com/envoy."
Config = dict[str, Any]
SHOWN: Config = {
    "envoy.filters.http.ext_authz": {
        "@type": TYPE + "extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "check_settings": {"with_request_body": {"max_request_bytes": BODY_BYTES, "allow_partial_message": True}},
    }
}  # of a route: the beginning of the body comes with the question


@dataclass(frozen=True, slots=True)
class Listening:
    grpc: int
    http: int
    picker: Path  # a socket of the picker: a way through TCP would cost every request
    hop: Path  # likewise, of the hop through Python


@dataclass(frozen=True, slots=True)
class Bootstrap:
    host: str  # of both listeners
    ports: Listening
    folder: Path  # of the files that list the replicas
    models: tuple[str, ...]  # each has its own replicas; the only one has no name
    usual: str  # of them, whose replicas answer while the picker is silent
    held_seconds: float  # longest that the picker may take to answer
    most_connections: int  # of clients
    shown_headers: tuple[str, ...] = ()  # that rules look at, in lower case
    shows_length: bool = False  # of bodies
    own_secret: Path | None = None  # file of the certificate of both listeners; None: plain text
    trusted: Mapping[str, tls.Trusted] = field(default_factory=dict)  # by model: whose replicas speak TLS

    def config(self) -> Config:
        return {
            "node": {"id": "headrace-router", "cluster": "headrace-router"},
            "admin": {"address": _address("127.0.0.1", 0)},
            "static_resources": {
                "listeners": [self._listener(Door.GRPC, self.ports.grpc), self._listener(Door.HTTP, self.ports.http)],
                "clusters": [
                    *(self._replicas(door, model, cluster(door, model), _named_host()) for door, model in self._ways()),
                    *(self._replicas(door, self.usual, mirror(door), _fewest()) for door in Door),
                    self._own("picker", self.ports.picker),
                    self._own("hop", self.ports.hop),
                ],
            },
            "overload_manager": {
                "resource_monitors": [
                    {
                        "name": "envoy.resource_monitors.global_downstream_max_connections",
                        "typed_config": {
                            "@type": TYPE
                            + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                            "max_active_downstream_connections": self.most_connections,
                        },
                    }
                ]
            },
        }

    def _listener(self, door: Door, port: int) -> Config:
        return {
            "name": door,
            "address": _address(self.host, port),
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            "filter_chains": [
                {
                    "filters": [
                        {"name": "envoy.filters.network.http_connection_manager", "typed_config": self._http(door)}
                    ],
                    **({} if self.own_secret is None else tls.listening(OWN, self.own_secret)),
                }
            ],
        }

    def _http(self, door: Door) -> Config:
        return {
            "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": door,
            "codec_type": "AUTO",
            "use_remote_address": True,
            "generate_request_id": True,
            "preserve_external_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
            "max_request_headers_kb": HEADERS_KB,
            "stream_idle_timeout": "0s",  # a request may wait for a replica, or for its turn there
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}},
            "early_header_mutation_extensions": [
                {
                    "name": "envoy.http.early_header_mutation.header_mutation",
                    "typed_config": {
                        "@type": TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                        "mutations": [
                            *({"remove": name} for name in ANSWERS),
                            *self._length(door),
                            _set_header(CLIENT_ID_HEADER, "%REQ(X-REQUEST-ID)%"),
                            {"remove": STREAM_HEADER},
                        ],
                    },
                }
            ],
            "route_config": {
                "virtual_hosts": [{"name": door, "domains": ["*"], "routes": self._routes(door)}],
                "request_headers_to_add": self._told(),
            },
            "http_filters": [
                {"name": "envoy.filters.http.ext_authz", "typed_config": self._question(door)},
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": TYPE + "extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                },
            ],
            "access_log": [_access_log()],
        }

    def _told(self) -> list[Config]:
        """What replicas hear of us: the name that the client gave its request, if any, and that we chose the model."""
        chosen = {ANY_MODEL_HEADER: "true"} if self._chooses_model else {}
        told = {"x-request-id": f"%REQ({CLIENT_ID_HEADER})%", **chosen}
        return [_set_header(name, value)["append"] for name, value in told.items()]

    def _length(self, door: Door) -> list[Config]:
        """How long a body is, for the rules: the picker sees its beginning only. gRPC says it there."""
        if door is Door.GRPC or not self.shows_length:
            return []
        return [_set_header(LENGTH_HEADER, "%REQ(CONTENT-LENGTH)%")]

    def _question(self, door: Door) -> Config:
        """External authorisation as the question where to go: over HTTP it costs the least of what Envoy offers."""
        own = (STREAM_HEADER, FAIRNESS_HEADER, LENGTH_HEADER, "x-forwarded-for", "grpc-encoding")
        headers = (*own, PROGRESS_HEADER, *self.shown_headers) if door is Door.HTTP else (*own, *self.shown_headers)
        return {
            "@type": TYPE + "extensions.filters.http.ext_authz.v3.ExtAuthz",
            "failure_mode_allow": True,
            "clear_route_cache": door is Door.HTTP or self._chooses_model,  # the answer may be: through the hop
            "allowed_headers": {"patterns": [{"exact": name} for name in headers]},
            "http_service": {
                "server_uri": {
                    "uri": "http://picker",
                    "cluster": "picker",
                    "timeout": f"{self.held_seconds + 5:g}s",
                },
                "path_prefix": f"/{door}",
                "authorization_response": {
                    "allowed_upstream_headers": {"patterns": [{"exact": name} for name in ANSWERS]},
                    "allowed_client_headers": {
                        "patterns": [{"exact": "retry-after"}, {"exact": "content-type"}, {"prefix": "grpc-"}]
                    },
                },
            },
        }

    @property
    def _chooses_model(self) -> bool:
        return len(self.models) > 1

    def _ways(self) -> Iterator[tuple[Door, str]]:
        """To a model's replicas."""
        return product(Door, self.models)

    def _routes(self, door: Door) -> list[Config]:
        """The answer's first: they fit nothing before it is there."""
        through_us = {"match": _answered(HOP_HEADER), "route": {"cluster": "hop", "timeout": "0s"}}
        hop = [through_us] if door is Door.HTTP else []
        named = [
            {"match": _answered(CHOSEN_HEADER, model), "route": _route(cluster(door, model))} for model in self.models
        ]
        usual = _route(cluster(door, self.usual))
        prompted = [
            {"match": {"path": path}, "route": usual, "typed_per_filter_config": SHOWN} for path in PROMPTED[door]
        ]
        rest = {"match": {"prefix": "/"}, "route": usual}
        return [*hop, *(named if self._chooses_model else []), *prompted, rest]

    def _replicas(self, door: Door, model: str, name: str, policy: Config) -> Config:
        protocol = {"http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}}
        return {
            "name": name,
            "type": "EDS",
            "connect_timeout": "1s",
            "eds_cluster_config": {
                "service_name": name,
                "eds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": {"path": str(self.file(name))},
                },
            },
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            # Limits for upstreams that have none; a replica refuses by itself and says when to come back.
            "circuit_breakers": {
                "thresholds": [
                    {
                        "max_connections": self.most_connections,
                        "max_pending_requests": self.most_connections,
                        "max_requests": 1_000_000,
                        "max_retries": self.most_connections,
                    }
                ]
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
                    # Replicas close what is idle for 75 s; who closes first loses no request.
                    "common_http_protocol_options": {"idle_timeout": "60s"},
                    "explicit_http_config": protocol if door is Door.GRPC else {"http_protocol_options": {}},
                }
            },
            "load_balancing_policy": {"policies": [policy]},
            **self._replicas_tls(door, model),
        }

    def _replicas_tls(self, door: Door, model: str) -> Config:
        if model not in self.trusted:
            return {}
        return tls.calling(self.trusted[model], "h2" if door is Door.GRPC else "http/1.1")

    def file(self, name: str) -> Path:
        """That lists the replicas of a cluster."""
        return self.folder / f"{name}.json"

    def _own(self, name: str, socket: Path) -> Config:
        """A socket of this process."""
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {
                "thresholds": [
                    {
                        "max_connections": self.most_connections,
                        "max_pending_requests": self.most_connections,
                        "max_requests": self.most_connections,
                    }
                ]
            },
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]}],
            },
        }


def cluster(door: Door, model: str) -> str:
    """Of a model's replicas, in Envoy."""
    return f"{door}-{model}" if model else door


def mirror(door: Door) -> str:
    """The cluster of those that hear copies."""
    return f"mirror-{door}"


def endpoints_file(name: str, door: Door, endpoints: Sequence[Endpoint], version: int) -> Config:
    """What Envoy reads again whenever the file is replaced."""
    addresses = [_address(endpoint.address, endpoint.ports.of(door)) for endpoint in endpoints]
    assignment = {
        "@type": TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
    }
    return {"version_info": str(version), "resources": [assignment]}


def _route(to: str) -> Config:
    """To a cluster of replicas."""
    return {
        "cluster": to,
        "request_mirror_policies": [
            {"cluster_header": MIRROR_HEADER, "disable_shadow_host_suffix_append": True}
        ],  # none where the picker named none
        "timeout": "0s",  # the caller's deadline, and what the replica allows, are the only ones
        "retry_policy": {
            "retry_on": RETRY_ON,
            "retriable_status_codes": [503],  # a replica that drains or loads; its 429 and 500 are the caller's to hear
            "num_retries": RETRIES,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
            "host_selection_retry_max_attempts": 3,
        },
    }


def _answered(header: str, value: str | None = None) -> Config:
    """Matches a request that the picker gave this header; None: with whatever value."""
    match: Config = {"present_match": True} if value is None else {"string_match": {"exact": value}}
    return {"prefix": "/", "headers": [{"name": header, **match}]}


def _set_header(name: str, value: str) -> Config:
    return {"append": {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _fewest() -> Config:
    """To the one with the fewest requests of this Envoy."""
    return {
        "typed_extension_config": {
            "name": "envoy.load_balancing_policies.least_request",
            "typed_config": {"@type": TYPE + "extensions.load_balancing_policies.least_request.v3.LeastRequest"},
        }
    }


def _named_host() -> Config:
    return {
        "typed_extension_config": {
            "name": "envoy.load_balancing_policies.override_host",
            "typed_config": {
                "@type": TYPE + "extensions.load_balancing_policies.override_host.v3.OverrideHost",
                "override_host_sources": [{"header": ENDPOINT_HEADER}],
                "fallback_policy": {"policies": [_fewest()]},
            },
        }
    }


def _access_log() -> Config:
    """A line when a request is over, whatever became of it: who picked learns that it is."""
    line = {
        "stream": "%STREAM_ID%",
        "host": "%UPSTREAM_HOST%",
        "flags": "%RESPONSE_FLAGS%",
        "code": "%RESPONSE_CODE%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "trouble": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": TYPE + "extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": line},
        },
    }


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}
