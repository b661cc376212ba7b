"""Everything the router fails with.

RouterError
├── BadArguments  the command line asks for what cannot be; names the flag and the remedy
└── EnvoyFailed   Envoy cannot be started, or ended by itself; the process ends and Kubernetes restarts it
"""


class RouterError(Exception):
    """Base of all errors of the router."""


class BadArguments(RouterError):
    pass


class EnvoyFailed(RouterError):
    pass
