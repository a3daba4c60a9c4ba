"""The bill of materials of an image (CycloneDX): what its Python and its Debian have installed."""

import json
from typing import Any, Final

from docker.engine import Engine
from docker.images import Image, version

_INSTALLED: Final = """
import json, pathlib, re
from importlib.metadata import distributions
found = [["pypi", one.name, one.version] for one in distributions()]
status = pathlib.Path("/var/lib/dpkg/status")
for block in (status.read_text() if status.exists() else "").split("\\n\\n"):
    fields = dict(re.findall(r"^([-\\w]+): (.*)$", block, re.MULTILINE))
    if fields.get("Status", "").endswith(" installed"):
        found.append(["deb/debian", fields["Package"], fields["Version"]])
print(json.dumps(found))
"""


def bill(docker: Engine, image: Image) -> str:
    """As JSON. The image's own Python says what there is; nothing else is asked."""
    options = ("--rm", "--network=none", "--user=65532:65532", "--entrypoint=/opt/dp-vllm/bin/python")
    found = json.loads(docker.run("run", *options, image.tag, "-I", "-c", _INSTALLED, seconds=120))
    return json.dumps(document(image.target, sorted(map(tuple, found))), indent=1) + "\n"


def document(target: str, found: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Of the packages that are found: kind, name and version of each."""
    components = [
        {"type": "library", "bom-ref": purl, "name": name, "version": installed, "purl": purl}
        for kind, name, installed in dict.fromkeys(found)
        for purl in [f"pkg:{kind}/{name.lower()}@{installed.replace('+', '%2B').replace(':', '%3A')}"]
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": f"dp-vllm/{target}", "version": version()}},
        "components": components,
    }
