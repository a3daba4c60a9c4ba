"""Holds bills of materials against the schema of CycloneDX: `python release/bills.py FOLDER...`, in `.venv-release`."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main(folders: list[str]) -> int:
    wrong = 0
    for file in (file for folder in folders for file in sorted(Path(folder).glob("*.cdx.json"))):
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text())
        print(f"{file}: {problem or 'valid'}")
        wrong += problem is not None
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
