"""Hosts that servers listen on: as they are typed, and as URLs name them. Pure."""

import ipaddress
import re


def read(text: str) -> str:
    """A host as typed, without the brackets of an IPv6 address in a URL. Raises ValueError with what is allowed."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if host == "0":
            return "0.0.0.0"  # noqa: S104 - as the kernel reads it
    if "/" in host or ":" in host or re.search(r"\s", host):
        raise ValueError("allowed are an address or a name of this machine, like 127.0.0.1, ::1, :: or localhost")
    return host


def is_everywhere(host: str | None) -> bool:
    """Whether that stands for all addresses of the machine, of one family or both."""
    if not host:
        return True
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def in_url(host: str) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def from_here(host: str | None) -> str:
    """What a client on this machine connects to where a server listens on `host`."""
    if not is_everywhere(host):
        return str(host)
    # Both families, of which a container may have only one.
    return "localhost" if host and ":" in host else "127.0.0.1"
