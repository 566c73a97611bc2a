"""Every command line in the documentation is one that the program would take."""

import re
import shlex
from pathlib import Path

import pytest
import typer

REPOSITORY = Path(__file__).parent.parent.parent
PAGES = [
    REPOSITORY / "README.md",
    *(
        path
        for path in sorted((REPOSITORY / "docs").rglob("*.md"))
        # What was done once, with the commands of then; and what is written from the commands.
        if path.name != "experiments.md" and path.parent.name not in ("adr", "reference")
    ),
]
CALL = r"(?:\.venv/bin/)?hymirec (?!-m )"


def blocks(text):
    """Lines of code, indented or fenced, with continued ones joined."""
    fenced, found = False, []
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            found.append(line.strip().removeprefix("$ "))
    return found


def spans(text):
    """Pieces of code within sentences."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def words_of(line):
    """A command's words: what is optional counts as given, of alternatives the first."""
    line = re.sub(r"[\[\]…]", "", re.split(r"\s[#&|>]|\s{2,}", line)[0])
    words = shlex.split(re.sub(r"\|[^\s|]+", "", line))
    return [word for word in words if word]


def all_in(pattern, pieces):
    """Pairs of page and line, for every line of the pages' pieces that begins with a pattern."""
    return [
        pytest.param(page, line, id=f"{page.name}: {line[:60]}")
        for page in PAGES
        for line in dict.fromkeys(pieces(page.read_text()))
        if re.match(pattern, line)
    ]


def resolve(generate, words):
    """The command that the words call, and the words it is given."""
    known = {tuple(path): command for path, command in generate.commands()}
    path = ("hymirec",)
    while len(path) < len(words) and (*path, words[len(path)]) in known:
        path = (*path, words[len(path)])
    return known[path], words[len(path) :]


def refuses(generate, line):
    """Why the command line would not take a line; None where it would."""
    words = words_of(line)
    command, rest = resolve(generate, ["hymirec", *words[1:]])
    if hasattr(command, "commands") and not "".join(rest).startswith("-"):
        return f"no command is called {rest[0]!r}" if rest else f"{words[-1]!r} is a group"
    try:
        command.make_context(" ".join(words[:3]), rest)
    except typer.Exit:
        return None
    except Exception as error:  # Typer's own have no public name
        return error.format_message() if hasattr(error, "format_message") else repr(error)
    return None


@pytest.mark.parametrize(("page", "line"), all_in(CALL, blocks))
def test_a_command_of_a_page_would_be_taken(generate, page, line):
    assert refuses(generate, line) is None


@pytest.mark.parametrize(("page", "line"), all_in(CALL, spans))
def test_a_command_named_in_a_sentence_is_there_with_its_options(generate, page, line):
    words = words_of(line)
    command, rest = resolve(generate, ["hymirec", *words[1:]])
    if hasattr(command, "commands"):
        assert not rest or rest == ["--version"], f"no command {rest[0]!r}"
        return
    options = {option for param in command.params for option in param.opts}
    assert {word for word in rest if word.startswith("-") and word != "-"} <= options | {"--help"}


@pytest.mark.parametrize(
    ("page", "line"), all_in(r"make [a-z]", blocks) + all_in(r"make [a-z]", spans)
)
def test_a_target_of_make_is_there(page, line):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words_of(line)[1:] if "=" not in word} <= targets


@pytest.mark.parametrize(
    ("page", "line"),
    all_in(r"(python )?(benchmarks|docs)/\w+\.py", blocks)
    + all_in(r"(python )?(benchmarks|docs)/\w+\.py", spans),
)
def test_a_script_is_there_with_its_options(page, line):
    script, *rest = words_of(line.removeprefix("python "))
    source = (REPOSITORY / script).read_text()
    for option in [word for word in rest if word.startswith("--")]:
        assert f'"{option}"' in source


def test_what_the_program_would_not_take_is_found(generate):
    assert refuses(generate, "hymirec pipeline --data DIR [--recipe small|base] [--json]") is None
    assert refuses(generate, "hymirec compare RUN RUN [RUN…]") is None
    assert "No such option" in refuses(generate, "hymirec pipeline --data DIR --speed 3")
    assert "Missing option" in refuses(generate, "hymirec pipeline --json")
    assert "valid integer" in refuses(generate, "hymirec recommend --user 42 -k ten")
    assert "no command" in refuses(generate, "hymirec fly")
    assert "group" in refuses(generate, "hymirec events")
