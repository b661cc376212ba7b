"""A connection to the API server, from the pod's service account or a kubeconfig."""

import contextlib
from collections.abc import AsyncIterator, Mapping

from kubernetes.aio import client, config

from headrace_router.errors import BadArguments
from headrace_router.settings import Settings


@contextlib.asynccontextmanager
async def connected(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[client.ApiClient]:
    """Raises BadArguments where there is no way to an API server."""
    configured = client.Configuration()
    try:
        if settings.kubeconfig:
            await config.load_kube_config(config_file=str(settings.kubeconfig), client_configuration=configured)
        else:
            folder = settings.service_account
            config.incluster_config.InClusterConfigLoader(
                token_filename=str(folder / "token"), cert_filename=str(folder / "ca.crt"), environ=environ
            ).load_and_set(configured)
    except config.ConfigException as error:
        raise BadArguments(
            f"no way to an API server: {error}; run in a pod, name a file with --kubeconfig, or replicas with --replica"
        ) from error
    async with client.ApiClient(configured) as connection:
        yield connection
