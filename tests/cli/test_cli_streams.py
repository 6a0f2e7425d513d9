"""Whatever standard output is (a full disk, a pipe without a reader, an ASCII terminal): one message or none, and no traceback."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import IO, cast

import click
import pytest
import typer
from rich.table import Table
from rich.text import Text

from cli.verbs import asked
from run.real import write_config
from windfall.cli.main import app, main
from windfall.cli.output import print_json
from windfall.cli.streams import GuardedStream, Unwritable
from windfall.config.load import load
from windfall.run.prepare import prepare_run
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.terminal.console import SafeConsole, drawing

Heard = list[tuple[list[str], str, int, str, str]]
FULL = "windfall: standard output cannot be written: No space left on device\n"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration in a folder with a name that quotes, percents and encodings stumble over; beside it its run, prepared."""
    folder = tmp_path_factory.mktemp("streams") / 'o\'brien "q" $HOME %20 #x ?y=é'
    folder.mkdir()
    config = write_config(folder, {"a": [(0, 60)]})
    run = RunDir(folder / "run")
    prepare_run(load(config), run, lambda _: None)
    telemetry = Telemetry.open(run.telemetry)
    telemetry.event(0.0, "warning", reason="1 → 2 …")
    telemetry.close()
    return config


def verbs(config: Path) -> list[list[str]]:
    run, out = str(config.parent / "run"), str(config.parent / "out")
    plain = [
        ["status", run], ["events", run], ["report", run], ["eval", run, "--sequences", "1"], ["check", str(config)],
        ["generate", run, "--prompt", "the é", "--tokens", "2"], ["backtest", str(config)], ["model", "--depth", "2"],
        ["signals", "--config", str(config)],
    ]  # fmt: skip
    again = [["export", run, "--out", out], ["gc", run, "--dry-run"], ["export-weights", run, "--out", f"{out}-w"]]
    return [*plain, *([*v, "--json"] for v in plain), *again]


def names() -> list[list[str]]:
    """One of each kind, since help is one code for all: the whole, a verb, a group, a verb of a group."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    inner = [[n, m] for n, c in group.commands.items() if isinstance(c, click.Group) for m in c.commands]
    return [[], ["run"], [inner[0][0]], inner[0]]


@pytest.fixture(scope="module")
def heard(config: Path) -> Heard:
    """Everything that is asked here: arguments, where output went, exit code, output, standard error."""
    every = verbs(config)
    cases = [(v, "full") for v in [*every, *([*n, "--help"] for n in names()), ["--version"]]]
    cases += [(v, where) for v in every if v[0] in ("events", "status", "backtest") for where in ("gone", "closed")]
    cases += [(v, "ascii") for v in every if v[0] not in ("export", "gc", "export-weights", "eval", "model")]
    return [(*case, *answer) for case, answer in zip(cases, asked(cases), strict=True)]


@pytest.mark.slow
def test_a_full_disk_behind_any_verb_is_one_message(heard: Heard) -> None:
    for arguments, where, code, _, err in heard:
        if where == "full":
            assert (code, err) == (1, FULL), arguments


@pytest.mark.slow
def test_a_reader_that_goes_away_and_a_closed_output_are_no_failure(heard: Heard) -> None:
    for arguments, where, code, _, err in heard:
        if where in ("gone", "closed"):
            assert (code, err) == (0, ""), (arguments, where)


@pytest.mark.slow
def test_an_ascii_terminal_is_written_in_ascii_and_json_stays_json(heard: Heard) -> None:
    for arguments, where, code, out, err in heard:
        if where != "ascii":
            continue
        assert (code, err) == (0, ""), arguments
        assert out
        assert out.isascii()
        if "--json" in arguments:
            found = [json.loads(line) for line in out.splitlines()] if arguments[0] == "events" else json.loads(out)
            assert found
            if arguments[0] == "generate":
                assert found["prompt"] == "the é"
            elif arguments[0] == "events":
                assert found[-1]["detail"]["reason"] == "1 → 2 …"
        elif arguments[0] == "events":
            assert "1 -> 2 ..." in out


class Broken(io.StringIO):
    """A terminal that has been closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_patient_stream_lets_go_and_a_strict_one_says_why_each_time() -> None:
    patient = GuardedStream(Broken(), patient=True)
    print("lost", file=patient)
    print("lost too", file=patient, flush=True)
    assert patient.lost is not None
    strict = GuardedStream(Broken(), patient=False)
    for _ in range(2):
        with pytest.raises(Unwritable) as told:
            print("lost", file=strict)
        assert told.value.nobody_reads


ORDERS = "a\x1b[2Jb\x1b]0;t\x07c\x9b31md\re\u202ef\r\n\tg"
HARMLESS = "a\ufffd[2Jb\ufffd]0;t\ufffdc\ufffd31md\ufffde\ufffdf\r\n\tg"


def test_no_text_gives_a_terminal_orders_and_what_draws_there_may() -> None:
    under = io.StringIO()
    stream = GuardedStream(under, patient=False)
    print(ORDERS, file=stream)
    assert under.getvalue() == f"{HARMLESS}\n"
    print("\r\x1b[K", end="", file=drawing(cast(IO[str], stream)))
    assert under.getvalue() == f"{HARMLESS}\n\r\x1b[K"


def test_a_picture_has_its_own_colours_and_no_orders_of_what_it_shows() -> None:
    under = io.StringIO()
    table = Table("head\x1b[2J")
    table.add_row(Text(ORDERS, style="red"))
    SafeConsole(under, force_terminal=True, color_system="standard", width=80).print(table)
    assert "\x1b[31m" in under.getvalue()
    assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", under.getvalue())
    assert not set("\x07\x9b\u202e") & set(under.getvalue())


def test_json_keeps_what_a_terminal_would_obey_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": ORDERS})
    out = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e\r") & set(out)
    assert json.loads(out) == {"a": ORDERS}


def test_a_file_that_is_looked_at_gives_no_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, trace = tmp_path / "x.toml", tmp_path / "t.csv"
    wrong.write_text("na\x1b[31mme = 1\n", encoding="utf-8")
    trace.write_text("time\x1b[31m,val\x1b]0;t\x07\n2026-01-01T00:00Z,1\n2026-01-01T01:00Z,2\n", encoding="utf-8")
    for verb, name in ((["check", str(wrong)], "na\ufffd[31mme"), (["trace", "show", str(trace)], "val\ufffd]0;t\ufffd")):
        monkeypatch.setattr("sys.argv", ["windfall", *verb])
        with pytest.raises(SystemExit):
            main()
        said = "".join(capsys.readouterr())
        assert name in said
        assert "\x1b" not in said
