"""The operator's command line: `python -m dp_vllm_operator`, or `dp-vllm operator`."""

import asyncio
import logging
import os
import secrets
import socket
import sys
from importlib.metadata import version
from typing import Any, Final

import click

from dp_vllm.errors import DpVllmError
from dp_vllm.log_format import set_up
from dp_vllm_operator.settings import ALL, ALL_IPV4, Settings

try:
    from dp_vllm.kubernetes_api import own_namespace
    from dp_vllm_operator.run import run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("kopf", "kubernetes"):
        raise
    sys.exit("dp-vllm operator: needs kopf and the Kubernetes client: pip install 'dp-vllm[operator]'")

VERSION: Final = version("dp-vllm")

log = logging.getLogger(__name__)


@click.command(context_settings={"max_content_width": 100})
@click.version_option(VERSION, message="dp-vllm-operator %(version)s")
@click.option("--namespace", "namespaces", multiple=True, metavar="NAME",
              help="Serve only this namespace; repeatable.  [default: all of the cluster]")  # fmt: skip
@click.option("--engine-image", default="vllm/vllm-openai:v0.32.0", show_default=True, metavar="IMAGE",
              help="For models that name none.")  # fmt: skip
@click.option("--gateway-image", default=f"dp-vllm/gateway:{VERSION}", show_default=True, metavar="IMAGE",
              help="For models that name none.")  # fmt: skip
@click.option("--gateway-cluster-role", default="dp-vllm-gateway", show_default=True, metavar="NAME",
              help="ClusterRole that lets gateways watch pods.")  # fmt: skip
@click.option("--listen-address", type=click.Choice([ALL_IPV4, ALL]),
              help="Where engines and gateways listen; all replicas that are made from then on.  "
              "[default: :: if POD_IP, this pod's address, is one of IPv6]")  # fmt: skip
@click.option("--lease-namespace", default="kube-system", show_default=True, metavar="NAME",
              help="Where the Lease of a cluster-wide operator is.")  # fmt: skip
@click.option("--health-port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="For /healthz, /readyz and /metrics.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_default=True,
              help="How many models are looked at at once.")  # fmt: skip
@click.option("--resync-seconds", type=click.FloatRange(1), default=300.0, show_default=True,
              help="How often every model is looked at without an event.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(**given: Any) -> None:
    """Make a Kubernetes cluster match its DPModel objects.

    Logs in as kubectl does (KUBECONFIG), or as the pod that it runs in.
    """
    set_up(as_json=given.pop("log_format") == "json")
    given["listen_address"] = given["listen_address"] or listen_address(os.environ.get("POD_IP", ""))
    settings = Settings(
        **given,
        own_namespace=os.environ.get("POD_NAMESPACE") or own_namespace(),
        identity=os.environ.get("POD_NAME") or f"{socket.gethostname()}-{secrets.token_hex(4)}",
    )
    try:
        asyncio.run(run(settings))
    except DpVllmError as error:
        click.echo(f"dp-vllm operator: {error}", err=True)
        sys.exit(error.exit_status)


def listen_address(pod_ip: str) -> str:
    """All addresses of the family in which the cluster gives pods their first one, by one pod's; IPv4 if not known."""
    return ALL if ":" in pod_ip else ALL_IPV4


if __name__ == "__main__":
    main(prog_name="dp-vllm operator")
