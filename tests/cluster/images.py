"""The image of the container that holds a pod's namespaces open, made without a registry or Docker."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Final

from . import binaries
from .errors import ClusterError

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_pause_image(archive: Path, name: str) -> None:
    """Write the program `pause`, as the image `name` (REPOSITORY:TAG), to a tar file that `Cluster.load` takes."""
    program = binaries.find("pause")
    if program is None:
        raise ClusterError("pause is not built")
    layer = _tar({"pause": Path(program).read_bytes()})
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": _json(config), "manifest.json": _json(manifest), "layer.tar": layer}
    archive.write_bytes(_tar(files))


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
