"""What goes wrong with a SuperNode's messages is told; and a SuperNode is told its folder, whatever that is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from windfall.site.agent import Agent
from windfall.site.node_log import NodeLog, NodeNotes
from windfall.site.spawning import SPAWNING

LINE = "ERROR :   Failed to push task output: Client error '401 Unauthorized' for url 'http://127.0.0.1:1/x'\n"


def test_refused_messages_are_told_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("windfall.clock.monotonic", lambda: now[0])
    log = tmp_path / "supernode.log"
    log.write_text(LINE)  # of an earlier life
    agent, trainer = NodeLog(tmp_path, log), NodeNotes(tmp_path)

    def look() -> str:
        now[0] += 2
        agent.look()
        return trainer.new()

    assert look() == ""
    with open(log, "a") as f:
        f.write("INFO :  [RUN 1401]\n" + LINE + LINE + LINE[:40])
        f.flush()
        assert "(401, 2 times)" in look()
        assert look() == ""
        f.write(LINE[40:])
    assert "(401, 1 time)" in look()
    log.write_text(LINE)  # begun anew
    assert "(401, 1 time)" in look()


def test_a_supernode_that_starts_a_process_for_each_message_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("windfall.clock.monotonic", lambda: now[0])
    log = tmp_path / "supernode.log"
    agent, trainer = NodeLog(tmp_path, log), NodeNotes(tmp_path)
    said = []
    for text in ("INFO : Starting\n", f"{SPAWNING}: Flower is not as we know it (x)\n", f"{SPAWNING}: y\n{LINE}", ""):
        with open(log, "a") as f:
            f.write(text)
        now[0] += 2
        agent.look()
        said.append(trainer.new())
    assert said[:2] == ["", "each of its messages starts a process, which costs seconds: Flower is not as we know it (x)"]
    assert "(401, 1 time)" in said[2]
    assert said[3] == ""


@pytest.mark.parametrize(
    "name", ["plain", "o'brien", 'a "b" c', "$HOME %20 #x ?y", "back\\slash", "é 𝛼 日本", "tab\tline\x7f", "x" * 200]
)
def test_a_node_reads_the_folder_that_its_agent_means(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "sites" / "a"
    (folder / "flower").mkdir(parents=True)
    agent = object.__new__(Agent)
    agent._folder, agent._site, agent._spawning = folder, {"site": "a", "superlink": "127.0.0.1:1", "supernode_port": 2}, False
    command = agent.node_command()
    assert parse_config_args([command[command.index("--node-config") + 1]]) == {"site-dir": str(folder), "site": "a"}
