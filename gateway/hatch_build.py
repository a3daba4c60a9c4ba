"""Compiles what each request passes through, if `DP_VLLM_COMPILE=1` is set when the wheel is built.

The same sources, by mypyc, and nothing else. Unless it is asked for, the wheel is of plain Python and does the same,
more slowly (bench/README.md). Part of the build alone: nothing of it is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE: Final = "DP_VLLM_COMPILE"

MODULES: Final = (
    "app",
    "attempt",
    "body",
    "deaths",
    "headers",
    "keys",
    "lease",
    "outbox",
    "plain",
    "pool",
    "proxy",
    "queue",
    "relay",
    "routing/blocks",
    "routing/remembered",
    "routing/router",
    "upstream",
)
"""Of the gateway: what has a part in every request, but for types that msgspec makes, which are fast as they are."""

_COMPILE: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
sources = sys.argv[1:]
sys.argv[1:] = ["-q", "build_ext", "--inplace"]
setup(name="dp-vllm", package_dir={"": "gateway"}, py_modules=[], ext_modules=mypycify(sources, opt_level="3"))
"""

_MYPY: Final = """
[mypy]
mypy_path = src:gateway
explicit_package_bases = True
ignore_missing_imports = True
follow_imports = silent
"""


class CompileHook(BuildHookInterface[Any]):
    """Puts compiled modules beside their sources in the wheel; Python takes the compiled ones."""

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling. mypyc has to see the types of what the gateway is built on."""
        asked = os.environ.get(VARIABLE) == "1" and self.target_name == "wheel"
        return ["mypy>=2.4", "setuptools>=80", *self.metadata.core.dependencies] if asked else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of the wheel are gathered. `version` is `editable` for `pip install -e`."""
        if os.environ.get(VARIABLE) != "1":
            return
        if version == "editable":
            raise ValueError(f"{VARIABLE}=1 is for wheels; an editable install runs the sources")
        self._folder = tempfile.TemporaryDirectory(prefix="dp-vllm-compile-")
        folder = Path(self._folder.name)
        root = Path(self.root)
        for source in ("src", "gateway"):
            shutil.copytree(root / source, folder / source, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (folder / "mypy.ini").write_text(_MYPY)
        sources = [f"gateway/dp_vllm_gateway/{module}.py" for module in MODULES]
        self.app.display_info(f"compiling {len(sources)} modules of the gateway, about a minute")
        subprocess.run([sys.executable, "-c", _COMPILE, "--config-file=mypy.ini", *sources], cwd=folder, check=True)
        compiled = sorted((folder / "gateway").rglob("*.so"))
        build_data["force_include"].update({str(path): str(path.relative_to(folder / "gateway")) for path in compiled})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel has what was compiled."""
        if os.environ.get(VARIABLE) == "1" and version != "editable":
            self._folder.cleanup()
