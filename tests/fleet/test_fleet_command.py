"""Command driver: what the user's commands are given, and what is made of what they answer."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.driver_conformance import DriverConformance, Rig, look, until
from fleet.site_scripts import KINDS, Site, prepared, start
from patience import wait_for
from windfall.config.drivers import CommandTable, SlurmTable
from windfall.config.exalsius import ExalsiusTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.command import CommandDriver
from windfall.fleet.machine import Observation, Observed

#: A user's script, as the page on drivers describes one: the site is a process of this machine.
_SCRIPT = """#!/bin/bash
cd "$(dirname "$0")"
echo "$1" >> calls
env > "$1.env"
[ -e refuse ] && { echo warming up >&2; echo "the cloud says no" >&2; exit "$(cat refuse)"; }
pid=$(cat pid 2>/dev/null)
lives() { [ -n "$pid" ] && [ -n "$(tr -d '\\0' < "/proc/$pid/cmdline" 2>/dev/null)" ]; }
case $1 in
up)
  setsid "${PWD%/user}/program/site" site start --endpoint "$WINDFALL_ENDPOINT" --token-file "$WINDFALL_TOKEN_FILE" > log 2>&1 &
  echo $! > pid
  echo "$WINDFALL_GENERATION" > generation ;;
down)
  touch stopping
  if [ "$WINDFALL_GRACE_S" = 0 ]; then kill -KILL "$pid"; else kill -TERM "$pid"; fi 2>/dev/null
  exit 0 ;;
observe)
  generation=$(cat generation 2>/dev/null || echo null)
  if lives && [ -e stopping ]; then state=stopping
  elif lives; then state=up
  elif [ -n "$pid" ] && [ ! -e stopping ]; then state=failed
  else state=absent; rm -f pid stopping
  fi
  echo "looked at it"
  echo "{\\"state\\": \\"$state\\", \\"words\\": \\"process $pid\\", \\"generation\\": $generation}" ;;
esac
"""
DOCUMENT = (Path(__file__).parents[2] / "docs" / "drivers.md").read_text(encoding="utf-8")


class CommandRig(Site):
    """A script, and a site that it starts."""

    site, run_id = "a", "run-1"
    kinds: tuple[type[DriverError], ...] = KINDS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "program")
        self.at, self.sites = folder / "user", folder / "sites"
        self.at.mkdir()
        self.script = self.at / "site.sh"
        self.script.write_text(_SCRIPT)
        self.script.chmod(0o755)

    def driver(self, **settings: Any) -> CommandDriver:
        given = {name: [str(self.script), name] for name in ("up", "down", "observe")} | settings
        return CommandDriver(self.site, CommandTable(**given), self.run_id, prepared(start(self.run_id)), self.sites / "a")

    def refuse(self, kind: type[DriverError] | None) -> None:
        if kind is None:
            (self.at / "refuse").unlink(missing_ok=True)
        else:
            (self.at / "refuse").write_text({Transient: "75", Unauthorized: "77"}.get(kind, "1"))

    def environment(self, command: str) -> dict[str, str]:
        lines = (self.at / f"{command}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def calls(self) -> list[str]:
        return (self.at / "calls").read_text().split()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CommandRig]:
    rig = CommandRig(tmp_path)
    yield rig
    rig.die()


class TestCommand(DriverConformance):
    @pytest.fixture
    def rig(self, rig: CommandRig) -> Rig:
        return rig


def test_commands_are_told_of_run_site_and_start_and_secrets_only_as_files(rig: CommandRig) -> None:
    driver = rig.driver()
    driver.ensure_up("a", 3)
    told = rig.environment("up")
    token, ca = Path(told["WINDFALL_TOKEN_FILE"]), Path(told["WINDFALL_CA_FILE"])
    assert (told["WINDFALL_RUN"], told["WINDFALL_SITE"], told["WINDFALL_GENERATION"]) == ("run-1", "a", "3")
    assert told["WINDFALL_ENDPOINT"] == "https://coordinator.example:8443"
    assert (token.read_text(), ca.read_text()) == ("secret-of-a-3", "-----BEGIN CERTIFICATE-----\n")
    assert [stat.S_IMODE(f.stat().st_mode) for f in (token, ca)] == [0o600, 0o600]
    assert not [v for v in told.values() if "secret-of" in v]
    until(driver, "a", Observed.UP)
    driver.ensure_down("a", 2.5, "its window has closed")
    told = rig.environment("down")
    assert (told["WINDFALL_GRACE_S"], told["WINDFALL_REASON"]) == ("2.5", "its window has closed")
    assert told["WINDFALL_GENERATION"] == "3"
    assert "WINDFALL_TOKEN_FILE" not in told


@pytest.mark.parametrize(
    ("environment", "seen"), [(None, {"AWS_PROFILE", "OTHER"}), (["AWS_PROFILE"], {"AWS_PROFILE"}), ([], set())]
)
def test_commands_get_of_the_environment_what_they_are_to_have(
    rig: CommandRig, monkeypatch: pytest.MonkeyPatch, environment: list[str] | None, seen: set[str]
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("OTHER", "secret")
    look(rig.driver(environment=environment), "a")
    found = set(rig.environment("observe"))
    assert found & {"AWS_PROFILE", "OTHER"} == seen
    assert {"PATH", "WINDFALL_RUN"} <= found


@pytest.mark.parametrize(
    ("status", "kind"), [(75, Transient), (77, Unauthorized), (1, Permanent), (2, Permanent), (126, Permanent)]
)
def test_an_exit_code_says_who_has_to_act_and_the_last_line_why(rig: CommandRig, status: int, kind: type[DriverError]) -> None:
    driver = rig.driver(observe=["echo", '{"state": "absent"}'])
    (rig.at / "refuse").write_text(str(status))
    with pytest.raises(DriverError) as error:
        driver.ensure_up("a", 1)
    assert (type(error.value), str(error.value)) == (kind, "up: the cloud says no")


@pytest.mark.parametrize(
    "printed",
    ["", "up", '{"state": "running"}', '{"words": "x"}', '["up"]', '{"state": "up", "generation": "3"}',
     '{"state": "up", "words": 3}', '{"state": "up", "generation": true}', "[" * 5000, "x" * 100_000],
)  # fmt: skip
def test_an_observation_that_means_nothing_is_told_with_what_was_printed_and_asked_again(rig: CommandRig, printed: str) -> None:
    (rig.at / "printed").write_text(printed)
    with pytest.raises(Transient, match="observe: it has to print one line") as error:
        look(rig.driver(observe=["cat", str(rig.at / "printed")]), "a")
    assert (printed[:100] or "nothing") in str(error.value)
    assert len(str(error.value)) < 400


def test_an_observation_needs_no_more_than_a_state(rig: CommandRig) -> None:
    driver = rig.driver(observe=["echo", '{"state": "stopping", "more": 1}'])
    assert look(driver, "a") == Observation(Observed.STOPPING)


def test_a_generation_that_observe_does_not_say_is_the_one_that_was_started_last(rig: CommandRig) -> None:
    rig.driver(observe=["echo", '{"state": "absent"}']).ensure_up("a", 5)
    wait_for("the site", lambda: rig.living() == 1)
    after = rig.driver(observe=["echo", '{"state": "up"}'])
    assert [(o.site, o.generation) for o in after.list_owned("run-1")] == [("a", 5)]


def test_a_start_is_not_asked_for_where_something_else_still_is(rig: CommandRig) -> None:
    stopping = rig.driver(observe=["echo", '{"state": "stopping"}'])
    with pytest.raises(Transient, match="still stopping"):
        stopping.ensure_up("a", 2)
    other = rig.driver(observe=["echo", '{"state": "up", "generation": 1}'])
    with pytest.raises(Transient, match="generation 1 is still there"):
        other.ensure_up("a", 2)
    assert not (rig.at / "calls").exists()


def test_what_cannot_be_seen_is_asked_to_stop_all_the_same(rig: CommandRig) -> None:
    rig.driver(observe=["false"]).ensure_down("a", 600.0, "off")
    assert rig.calls() == ["down"]


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_has_started(rig: CommandRig) -> None:
    child = rig.at / "child"
    script = f"sleep 1000 & echo $! > {child}; echo still at it >&2; wait"
    with pytest.raises(Transient, match=r"up: sh has not ended within 3 s: still at it"):
        rig.driver(observe=["echo", '{"state": "absent"}'], up=["sh", "-c", script], timeout_s=3).ensure_up("a", 1)
    pid = child.read_text().strip()
    wait_for("the child to end", lambda: not _command(pid))


def test_a_command_that_is_not_there_is_named(rig: CommandRig) -> None:
    with pytest.raises(Permanent, match="observe: /nowhere/up cannot be run here: No such file"):
        look(rig.driver(observe=["/nowhere/up"]), "a")


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", DOCUMENT, flags=re.S))
def test_every_table_on_the_page_on_drivers_is_one(text: str) -> None:
    site = tomllib.loads(text)["site"][0]
    tables = {"slurm": SlurmTable, "command": CommandTable, "exalsius": ExalsiusTable}
    assert tables[site["driver"]].model_validate(site[site["driver"]])


def test_the_page_on_drivers_names_every_key_of_them() -> None:
    for key in {*SlurmTable.model_fields, *CommandTable.model_fields, *ExalsiusTable.model_fields}:
        assert re.search(rf"`{key}\b|^{key} = ", DOCUMENT, flags=re.M), key


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("verb", ["up", "down", "observe"])
def test_the_scripts_on_the_page_ask_what_they_say_of_the_programs_that_they_use(rig: CommandRig, number: int, verb: str) -> None:
    script = rig.at / "example.sh"
    script.write_text(re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.S)[number])
    script.chmod(0o755)
    (rig.at / "a.yaml").write_text("file_mounts: {~/wf/token: TOKEN_FILE, ~/wf/ca.pem: CA_FILE}\n")
    programs = rig.at / "programs"
    programs.mkdir()
    said = {"sky": "wf-a  2 mins ago  1x GCP  UP  30m (down)", "curl": '{"id":0,"output":true}', "ssh": ""}
    for name, line in said.items():
        (programs / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >> {rig.at}/asked\necho '{line}'\n")
        (programs / name).chmod(0o755)
    token = rig.at / "token"
    token.write_text("secret")
    env = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "WINDFALL_SITE": "a", "WINDFALL_TOKEN_FILE": str(token),
        "WINDFALL_CA_FILE": "/ca.pem", "WINDFALL_ENDPOINT": "https://c:1", "WINDFALL_GRACE_S": "10", "SHARE": str(rig.folder),
    }  # fmt: skip
    done = subprocess.run([str(script), verb], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = (rig.at / "asked").read_text()
    expected = {
        ("up", 0): "sky launch --async --yes --cluster wf-a", ("down", 0): "sky down --async --yes wf-a",
        ("observe", 0): "sky status --refresh wf-a", ("up", 1): "rpc/Switch.Set?id=0&on=true",
        ("down", 1): "toggle_after=10", ("observe", 1): "rpc/Switch.GetStatus?id=0",
    }  # fmt: skip
    assert expected[verb, number] in asked
    assert "secret" not in asked
    assert (done.stdout == '{"state": "up"}\n') == (verb == "observe")
