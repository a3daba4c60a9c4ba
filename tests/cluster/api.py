"""The project's own connection to an API server, for one that tests name."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kubernetes.aio.client import Configuration
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.config import load_kube_config

from dp_vllm.kubernetes_api import KubernetesApi


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[KubernetesApi]:
    configuration = Configuration()
    configuration.connection_pool_maxsize = 100
    configuration.retries = None
    await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    client = ApiClient(configuration)
    try:
        yield KubernetesApi(client)
    finally:
        await client.close()
