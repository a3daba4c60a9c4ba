"""Gives the distribution the README with absolute links: on a package index there are no files beside it.

Part of the build alone, as `hatch_build.py`: nothing of it is installed.
"""

import re
from pathlib import Path
from typing import Any, Final

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE: Final = re.compile(r"(!\[[^][]*\]\()(?!https?://)([^()\s]+)\)")
LINK: Final = re.compile(r"(\]\()(?!https?://|mailto:)([^()\s]+)\)")
"""In Markdown, to a file or to a heading."""


class ReadmeHook(MetadataHookInterface):
    """Fills in the dynamic field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """`metadata` is the table `[project]`."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, metadata["urls"]["Homepage"], f"v{metadata['version']}"),
        }


def absolute(text: str, home: str, tag: str) -> str:
    """The text with links to the files of a release in a repository whose paths are those of GitHub."""
    text = IMAGE.sub(rf"\g<1>{home}/raw/{tag}/\g<2>)", text)
    return LINK.sub(lambda link: f"{link[1]}{home}/blob/{tag}/{_file(link[2])})", text)


def _file(target: str) -> str:
    return f"README.md{target}" if target.startswith("#") else target
