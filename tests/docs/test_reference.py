"""The reference says what the code says."""

import ast

from pydantic import BaseModel, Field


def test_the_committed_pages_are_up_to_date(generate):
    for path, text in generate.pages().items():
        assert path.read_text() == text, (
            f"run python docs/generate.py: {path.name} is not up to date"
        )


def test_every_command_is_in_the_reference(generate):
    page = (generate.FOLDER / "cli.md").read_text()
    commands = [" ".join(words) for words, _ in generate.commands()]
    assert "hymirec events ingest" in commands
    for words in commands:
        assert f"`{words}`\n" in page


def test_every_class_of_settings_is_in_the_reference(generate):
    described = {name.partition(":")[2] for *_, names in generate.SECTIONS for name in names}
    bases = {
        "SequenceConfig", "IdConfig", "BlocksConfig", "TextConfig", "NeighbourConfig", "RepoConfig",
    }  # fmt: skip
    for package in generate.PACKAGES:
        for path in (generate.REPOSITORY / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Settings")):
                    known = node.name in described | bases | {"Settings"}
                    assert known or node.name.startswith("_"), (
                        f"{path}: {node.name} is not in SECTIONS of docs/generate.py"
                    )


class Sample(BaseModel):
    """Two ways to say what a setting means.

    Attributes:
        first: said here,
            over two lines.
    """

    first: int = Field(3, ge=1, le=9)
    second: float | None = None
    """Said there."""


def test_meanings_are_found_in_both_of_our_ways(generate):
    assert generate.meanings(Sample) == {
        "first": "said here, over two lines.", "second": "Said there.",
    }  # fmt: skip
    fields = Sample.model_fields
    assert generate.kind_of(fields["first"]) == "whole number from 1 up to 9"
    assert generate.kind_of(fields["second"]) == "number, or nothing"
