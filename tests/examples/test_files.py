"""Every file says what it is for, and the index names it."""

import re
from collections import Counter
from pathlib import Path

import pytest

from examples.documents import ALL, FILES, FOLDER, head

INDEX = FOLDER / "README.md"

each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@each
def test_it_says_what_it_is_for_what_it_needs_what_to_change_and_how_it_is_applied(file: Path) -> None:
    said = head(file)

    assert "\n\nNeeds: " in said
    assert "\nChange: " in said
    assert f"\n    kubectl apply -f examples/{file.name}" in said


@each
def test_other_files_that_it_speaks_of_are_there(file: Path) -> None:
    spoken_of = set(re.findall(r"[-\w]+\.(?:yaml|py)\b", head(file)))

    assert spoken_of <= {other.name for other in FOLDER.iterdir()}


def test_the_index_names_every_file_once_and_no_other() -> None:
    named = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|", INDEX.read_text(), re.MULTILINE)

    assert all(name == target for name, target in named)
    files = [str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file() and file != INDEX]
    assert sorted(name for name, _ in named) == sorted(files)


def test_all_can_be_applied_side_by_side() -> None:
    twice = [what for what, times in Counter((*one.kind, one.name) for one in ALL).items() if times > 1]

    assert twice == []
