"""The reference pages of the documentation, made from what the product reads: ``python -m windfall.cli.reference PAGE``.

PAGE is ``configuration`` (every table and key of a configuration) or ``command-line`` (every verb and option).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from windfall.config.accepted import accepted, table_of
from windfall.config.schema import Config

_MADE = "Made from the code by `make reference`; a test keeps it so."


def configuration() -> str:
    """docs/configuration.md: a section for each table, a row for each key: what it accepts, its default, what it is."""
    lines = [
        "# Configuration", "",
        f"{_MADE} One TOML file configures a run. Units are in the names of keys; instants are UTC where they name no other "
        "offset; a key that is not here is an error, with a suggestion. `windfall init` writes a file with all of them, "
        "`windfall check` says everything that is wrong with one, with line and fix. Secrets never stand in it: they come from the "
        "environment or from a file that it names.",
        "", "A key without a default is required where its table stands.",
    ]  # fmt: skip
    first: dict[type[BaseModel], str] = {}
    for header, about, table in _tables(Config, ""):
        if first.setdefault(table, header) != header:
            lines += ["", f"## `{header}`", "", f"{about} The same keys as `{first[table]}`."]
            continue
        rows = [(key, field) for key, field in table.model_fields.items() if table_of(field.annotation) is None]
        lines += ["", f"## `{header}`", "", *([about, ""] if about else [])]
        if rows:
            lines += ["| key | accepts | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {_cell(accepted(field, key))} | {_default(field)} | {_cell(field.description or '')} |"
            for key, field in rows
        ]
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """docs/command-line.md: a section for each verb, with its arguments and options as ``--help`` has them."""
    from windfall.cli.main import app

    lines = [
        "# Command line", "",
        f"{_MADE} Every verb that prints results has `--json`. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration "
        "(also where a file, run or version that is named is not there), 130 interrupted (drained cleanly).",
        "", "What is read once (a configuration, a token) may be a pipe; a device or a socket is refused. Folders on the way "
        "to what a verb writes are made.",
    ]  # fmt: skip
    for path, command in _verbs(typer.main.get_command(app), ("windfall",)):
        context = click.Context(command, info_name=" ".join(path))
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [
            "",
            f"## {' '.join(path)}",
            "",
            *_paragraphs(command.help or ""),
            "",
            "```text",
            f"{' '.join(path)} {usage}",
            "```",
        ]
        shown = [record for p in command.get_params(context) if (record := _parameter(p, context)) and record[0] != "--help"]
        if shown:
            lines += ["", "| argument or option | meaning |", "|---|---|"]
            lines += [f"| `{name}` | {_cell(about)} |" for name, about in shown]
    return "\n".join(lines) + "\n"


PAGES = {"configuration": configuration, "command-line": command_line}


def _tables(table: type[BaseModel], path: str) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Header as TOML writes it, what the table is, its class: depth first, in the order of the schema."""
    for key, field in table.model_fields.items():
        inner = table_of(field.annotation)
        if inner is None:
            continue
        name = f"{path}.{key}" if path else key
        many = "list[" in str(field.annotation)
        doc = (inner.__doc__ or "").strip()
        about = field.description or (doc.split("`: ", 1)[-1] if doc else "")
        yield f"[[{name}]]" if many else f"[{name}]", _sentence(about), inner
        yield from _tables(inner, name)


def _verbs(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _verbs(inner, (*path, name))
    else:
        yield path, command


def _parameter(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    if isinstance(parameter, click.Argument):
        record = getattr(parameter, "get_help_record", lambda _: None)(context)
        about = _unescaped(str(record[1])) if record else ""
        return parameter.make_metavar(context), about.replace("[required]", "").strip()
    record = parameter.get_help_record(context)
    return (record[0], _unescaped(record[1])) if record else None


def _unescaped(text: str) -> str:
    """Help without the escapes by which typer keeps brackets from being markup."""
    return text.replace("\\[", "[")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return ""
    if default is None:
        return "none"
    return f"`{json.dumps(default)}`"


def _paragraphs(text: str) -> list[str]:
    """Help as it is written, a line a paragraph."""
    found = [" ".join(p.split()) for p in text.replace("\b", "").split("\n\n")]
    return "\n\n".join(found).split("\n")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?" else ".")


if __name__ == "__main__":
    if sys.argv[1:] not in [[page] for page in PAGES]:
        sys.exit(f"usage: python -m windfall.cli.reference {'|'.join(PAGES)}")
    print(PAGES[sys.argv[1]](), end="")
