"""Writes the pages of docs/reference/ from the code: the command line, the settings.

python docs/generate.py            write them
python docs/generate.py --check    say which are not what the code says, and write nothing
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup
from typer.main import get_command

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("hymirec", "features", "flows", "serving")
FOLDER = REPOSITORY / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py from the code: change it there. -->\n\n"

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Recipes",
        "A run of HyMiRec has seven parts; a recipe fixes every setting of each. `--recipe` names "
        "one; as a library, any setting is changed with `model_copy`.",
        ("hymirec.recipes.base:Recipe",),
    ),
    (
        "The content encoder",
        "",
        (
            "hymirec.encoder:EncoderConfig",
            "hymirec.models.layers:BackboneConfig",
            "hymirec.models.pretrained:PretrainedConfig",
        ),
    ),
    ("The first stage", "", ("hymirec.models.nextitem:NextItemConfig",)),
    (
        "The codebook",
        "One of three, told apart by `kind`.",
        (
            "hymirec.codebook.residual:ResidualConfig",
            "hymirec.codebook.additive:AdditiveConfig",
            "hymirec.codebook.kinds:ExactConfig",
        ),
    ),
    ("The recommender", "", ("hymirec.models.hymirec:HyMiRecConfig",)),
    ("Training", "", ("hymirec.training:TrainingConfig",)),
    ("Transitions", "See docs/training.md.", ("hymirec.transitions:TransitionConfig",)),
    (
        "The baselines",
        "Sizes are taken from the recipe of HyMiRec that they stand beside.",
        (
            "hymirec.models.popularity:PopularityConfig",
            "hymirec.models.cooccurrence:CoOccurrenceConfig",
            "hymirec.models.neighbours:LastItemConfig",
            "hymirec.models.gru4rec:GRU4RecConfig",
            "hymirec.models.sasrec:SASRecConfig",
            "hymirec.models.hstu:HSTUConfig",
            "hymirec.models.morec:MoRecConfig",
            "hymirec.models.hllm:HLLMConfig",
            "hymirec.models.patchrec:PatchRecConfig",
            "hymirec.models.comirec:ComiRecConfig",
            "hymirec.models.bilevel:BiLevelConfig",
        ),
    ),
    (
        "Data",
        "",
        ("hymirec.splits:SplitConfig", "hymirec.datasets.synthetic:WorldConfig"),
    ),
    ("Serving", "Options of `hymirec serve`.", ("serving.settings:GatewaySettings",)),
    (
        "The gate",
        "A YAML file, see docs/models.md. The one that comes with the package says what each "
        "setting is:",
        (
            "flows.gate.config:GateConfig",
            "flows.gate.config:Comparison",
            "flows.gate.config:Slices",
            "flows.gate.config:Limit",
        ),
    ),
    (
        "Monitoring",
        "A YAML file. The one that comes with the package says what each setting is:",
        ("flows.monitoring.settings:MonitorConfig", "flows.monitoring.settings:Threshold"),
    ),
    (
        "Experiments",
        "A YAML file of these.",
        (
            "hymirec.abtest.definition:Experiment",
            "hymirec.abtest.definition:Variant",
            "hymirec.abtest.definition:Traffic",
            "hymirec.abtest.definition:Targeting",
            "hymirec.abtest.definition:Guardrail",
            "hymirec.abtest.definition:Step",
            "hymirec.abtest.definition:Horizon",
        ),
    ),
)
"""Heading, what to know first, and `module:class` of what is described."""
FILES = {"Monitoring": "flows/monitoring/monitor.yaml", "The gate": "flows/gate/gate.yaml"}
"""Of a section: the file of defaults, shown whole."""


def pages() -> dict[Path, str]:
    """All pages as they should read."""
    return {
        FOLDER / "cli.md": command_line(),
        FOLDER / "configuration.md": configuration(),
    }


# The command line


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it, groups before what is in them."""
    from hymirec.cli import app

    def walk(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
        yield words, command
        if isinstance(command, TyperGroup):
            for name, inner in command.commands.items():
                yield from walk([*words, name], inner)

    yield from walk(["hymirec"], get_command(app))


def command_line() -> str:
    """The page of all commands."""
    text = "# The command line\n\n" + NOTE
    text += (
        "Every command ends with 0; with 1 where something failed; with 2 where what was asked "
        "for cannot be done or the data is wrong; with 130 where it was interrupted and the same "
        "command goes on. Failures are one line on standard error. `--json` prints one object as "
        "the last line of standard output.\n"
    )
    for words, command in commands():
        context = typer.Context(command, info_name=" ".join(words))
        text += f"\n{'#' * max(2, len(words))} `{' '.join(words)}`\n\n"
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        text += "\n\n".join(" ".join(one.split()) for one in paragraphs) + "\n"
        if isinstance(command, TyperGroup):
            continue
        pieces = [re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), piece)
                  for piece in command.collect_usage_pieces(context)]  # fmt: skip
        usage = " ".join([*words, *pieces])
        text += f"\n    {usage}\n"
        records = [param.get_help_record(context) for param in command.get_params(context)]
        rows = [(f"`{names}`", meaning) for names, meaning in filter(None, records)
                if names != "--help"]  # fmt: skip
        if rows:
            text += "\n" + table(("", ""), rows)
    return text


# Settings


def configuration() -> str:
    """The page of all settings."""
    text = "# Settings\n\n" + NOTE
    text += (
        "Settings are pydantic models: an unknown name or a value out of range is an error that "
        "names it. All of a run's settings are parameters of its MLflow run.\n\n"
        "## Environment variables\n\n"
    )
    rows = [(f"`{name}`", meaning) for name, meaning in sorted(environment_variables().items())]
    text += table(("variable", ""), rows)
    for heading, first, names in SECTIONS:
        text += f"\n## {heading}\n\n" + (f"{first}\n\n" if first else "")
        if heading in FILES:
            text += f"```yaml\n{(REPOSITORY / FILES[heading]).read_text()}```\n\n"
        text += "\n".join(_settings(described(name)) for name in names)
        if heading == "Recipes":
            text += "\n" + _recipes()
    return text


def described(name: str) -> type[BaseModel]:
    """The class of `module:class`."""
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute)
    assert issubclass(found, BaseModel)
    return found


def environment_variables() -> dict[str, str]:
    """What the code reads of its own in the environment, and what it says about each.

    Raises:
        LookupError: of one it says nothing: the text under the constant is missing.
    """
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for statement, following in _assignments(ast.parse(path.read_text())):
                for name in re.findall(r"'(HYMIREC_[A-Z_]+)'", ast.unparse(statement.value)):
                    meaning = found.get(name) or _text(following)
                    found[name] = meaning
                    if not meaning:
                        raise LookupError(f"{path}: no text under the name of {name}")
    return found


def _assignments(body: ast.Module) -> Iterator[tuple[ast.Assign, ast.stmt | None]]:
    """Assignments of a module to names that begin with ENV, each with what follows it."""
    for place, statement in enumerate(body.body):
        if isinstance(statement, ast.Assign) and ast.unparse(statement).lstrip("(").startswith(
            "ENV"
        ):
            yield statement, body.body[place + 1] if place + 1 < len(body.body) else None


def _text(statement: ast.stmt | None) -> str:
    """The text that a statement is, as one line; '' where it is none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What a class and those above it say about their fields, in either of our two ways."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        attributes = inspect.getdoc(one) or ""
        if "Attributes:" in attributes:
            block = textwrap.dedent(attributes.partition("Attributes:\n")[2].partition("\n\n")[0])
            for name, meaning in re.findall(r"^(\w+): (.*(?:\n +.*)*)", block, re.MULTILINE):
                found[name] = " ".join(meaning.split())
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for place, statement in enumerate(tree.body[:-1]):
            if isinstance(statement, ast.AnnAssign) and (text := _text(tree.body[place + 1])):
                found[ast.unparse(statement.target)] = text
    return found


def _settings(model: type[BaseModel]) -> str:
    said = meanings(model)
    rows = [
        (f"`{name}`", kind_of(field), _default(field), said.get(name, ""))
        for name, field in model.model_fields.items()
    ]
    introduction = (inspect.getdoc(model) or "").partition("\n\nAttributes:")[0]
    text = f"### {model.__name__}\n\n{' '.join(introduction.split())}\n\n"
    return text + (table(("setting", "values", "default", ""), rows) if rows else "")


def kind_of(field: FieldInfo) -> str:
    """What a field takes, in words."""
    inner = get_args(field.annotation)
    optional = type(None) in inner
    text = _kind(inner[0] if optional else field.annotation)
    for constraint in field.metadata:
        for sign, words in {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}.items():
            if (limit := getattr(constraint, sign, None)) is not None:
                text += f" {words} {limit}"
    return text + (", or nothing" if optional else "")


def _kind(annotation: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "yes or no"}
    if annotation in words:
        return words[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return _kind(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_kind, inner))
    if origin in (list, tuple):
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"{_kind(inner[1])} by name"
    if inspect.isclass(annotation):
        name = annotation.__name__
        listed = any(place.endswith(f":{name}") for *_, places in SECTIONS for place in places)
        return f"[{name}](#{name.lower()})" if listed else f"`{name}`"
    return f"`{annotation}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "–"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value in ("", [], {}, ()):
        return ""
    if isinstance(value, BaseModel):
        changed = {
            name: entry
            for name, entry in value.model_dump(mode="json").items()
            if entry != type(value).model_fields[name].get_default(call_default_factory=True)
            and not isinstance(entry, dict)
        }
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in changed.items()) or "its own"
    return _shown(value)


def _recipes() -> str:
    """Every setting of every recipe."""
    from hymirec.recipes import RECIPES

    made = {name: make().flat() for name, make in RECIPES.items()}
    keys = list(dict.fromkeys(key for flat in made.values() for key in flat if key != "name"))
    parts = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    settings = sorted(keys, key=lambda key: parts.index(key.partition(".")[0]))
    rows = [
        (f"`{key}`", *(_shown(flat[key]) if key in flat else "" for flat in made.values()))
        for key in settings
    ]
    said = "\n".join(
        f"- `{name}`: {' '.join((inspect.getdoc(make) or '').split())}"
        for name, make in RECIPES.items()
    )
    return f"What there is:\n\n{said}\n\n" + table(("setting", *made), rows)


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the pages, or tell which are out of date."""
    made = pages()
    old = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit(
            f"out of date: {', '.join(path.name for path in old)}; run python docs/generate.py"
            if old
            else 0
        )
    FOLDER.mkdir(exist_ok=True)
    for path in old:
        path.write_text(made[path])
        print(f"written: {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
