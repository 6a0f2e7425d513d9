"""A run over several hosts: network namespaces with addresses of their own, over TLS. Root only.

Most of what a network can do to a run is composed into one; what takes long is part of `make verify-anywhere`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.federation.links import inside

from patience import wait_for
from run import hosts
from run.hosts import ADDRESS, MOVED, NAME, Hosts
from run.real import Living, events, status, windfall, write_config
from windfall import clock
from windfall.errors import StoreError
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.units import iso_utc

pytestmark = pytest.mark.slow
at_length = pytest.mark.skipif(os.environ.get("WINDFALL_LONG") != "1", reason="takes minutes; part of make verify-anywhere")

#: Nobody reaches the end of it.
ENDLESS = 10**6


class Field:
    """A run on one host, and sites on others."""

    def __init__(self, folder: Path, there: Hosts, sites: Sequence[str], stack: contextlib.ExitStack) -> None:
        self.folder, self.there, self.sites = folder, there, sites
        self.run, self.certificates = folder / "run", folder / "certs"
        self._stack = stack
        self.invited_to: dict[str, str] = {}

    def config(self, *, address: str = ADDRESS, blocks: int = ENDLESS, **more: float) -> Path:
        """Sites that are always in a window, on the calendar, and whose messages travel as files."""
        addresses = [word for name in dict.fromkeys([address, NAME, ADDRESS]) for word in ("--address", name)]
        assert windfall("certs", "init", self.certificates, *addresses).returncode == 0
        given = {"tick_s": 1.0, "snapshot_s": 10.0, "solo_cut_s": 5.0, "round_s": 10.0, "heartbeat_timeout_s": 120.0, **more}
        file = write_config(self.folder, {s: [(0, 1)] for s in self.sites}, budget=128 * blocks, **given)  # type: ignore[arg-type]
        now = clock.wall()
        text = file.read_text(encoding="utf-8")
        text = (
            text.replace('clock = "scaled"', 'clock = "real"')
            .replace('start = "2026-01-01T00:00Z"\n', "")
            .replace("speed = 100000\n", "")
            .replace("drain_timeout_s = 300\n", "drain_timeout_s = 60\n")  # who cannot be reached keeps nobody waiting for long
            .replace("[federation]\n", "[federation]\nround_min_s = 3\ngrace_s = 8\ninline_limit_mb = 0.01\n")
            .replace("spin_up_s = 120\n", 'spin_up_s = 20\ndriver = "resident"\n')
            .replace("tokens_per_s = 4.2666666667", "tokens_per_s = 1000")
        )
        for line in {x for x in text.splitlines() if x.startswith("until = ")}:
            text = text.replace(line, f'until = "{iso_utc(now + 86400)}"')
        text += f'\n[network]\naddress = "{address}"\ncertificates = "{self.certificates}"\n'
        file.write_text(text, encoding="utf-8")
        for site in self.sites:
            (self.folder / f"{site}.csv").write_text(f"time_utc,g\n{iso_utc(now - 3600)},10\n", encoding="utf-8")
        return file

    def join(self, site: str, *, at: str = "", **environment: str) -> None:
        """Invite a machine and let it join: where it was told to, or at another name of the same."""
        if site not in self.invited_to:
            wait_for("the endpoint", lambda: (self.run / "bulk" / "port.json").is_file() and (self.run / "config.toml").is_file())
            told: list[str] = []

            def invited() -> bool:
                done = windfall("site", "invite", self.run, site, "--out", self.folder / f"{site}.token")
                told.append(done.stderr)
                return done.returncode == 0

            wait_for("an invitation", invited)
            self.invited_to[site] = told[-1].split("join ")[1].split()[0]
        url = self.invited_to[site]
        self.at(
            site, "join", url.replace(NAME, at) if at else url, "--token-file", self.folder / f"{site}.token",
            "--ca-file", self.certificates / "ca.pem", **environment,
        )  # fmt: skip

    def at(self, site: str, *words: object, **environment: str) -> None:
        """Start `windfall site` on a site's host."""
        command = [sys.executable, "-m", "windfall", "site", *map(str, words), "--folder", str(self.folder / site)]
        self._stack.enter_context(hosts.process(self.folder / site, inside(self.there.namespaces[site], command), **environment))

    def said(self) -> str:
        """What the agents of all sites have said."""
        return "".join((self.folder / s / "said.txt").read_text() for s in self.sites)

    def log(self, site: str) -> str:
        return (self.folder / site / "site" / "logs" / "agent.log").read_text()

    def together(self, sites: int) -> None:
        """Wait for a joint round of so many sites that begins after now."""
        begun = len(told(self.run, "round"))
        wait_for(f"a round of {sites}", lambda: any(len(e.detail["sites"]) == sites for e in told(self.run, "round")[begun:]))

    def taken(self, site: str) -> int:
        """Tokens of a site that are in versions."""
        return sum(e.detail["sites"].get(site, 0) for e in told(self.run, "commit"))

    def trains_on(self, site: str) -> None:
        """Wait until more of its work has been taken than now."""
        before = self.taken(site)
        wait_for(f"work of {site}", lambda: self.taken(site) > before)

    def lives(self) -> dict[str, int]:
        """How many lives of each site have said hello."""
        said = {(e["site"], e["detail"]["generation"]) for e in events(self.run, "hello")}
        return {s: sum(site == s for site, _ in said) for s in self.sites}

    def whole(self, *, to_the_end: bool) -> None:
        """Every site was of use; no block was committed twice; nothing went wrong that should not have."""
        assert all(self.taken(s) > 0 for s in self.sites), status(self.run)["sites"]
        assert not events(self.run, "stranger", "error", "quarantined")
        ledger = Ledger.open(self.run / "ledger.db", read_only=True)
        blocks = [
            b
            for v in ledger.versions()
            for c in ledger.contributions(v.version)
            for s in c.header["consumed"]
            for b in range(s["start"], s["end"])
        ]
        assert len(blocks) == len(set(blocks)), "each block once"
        assert len(blocks) == ledger.counts().committed + ledger.counts().skipped
        assert not to_the_end or sorted(blocks) == list(range(ledger.budget_blocks))
        ledger.close()


@contextmanager
def field(
    folder: Path, sites: Sequence[str], *, mbit_s: dict[str, float] | None = None, nat: Sequence[str] = (),
    proxied: Sequence[str] = (),
) -> Iterator[Field]:  # fmt: skip
    with hosts.hosts(sites, mbit_s=mbit_s, nat=nat, proxied=proxied) as there, contextlib.ExitStack() as stack:
        yield Field(folder, there, sites, stack)


def past(since: float, seconds: float) -> None:
    """Wait until so much time has gone by."""
    wait_for("a while", lambda: clock.monotonic() - since > seconds)


def test_links_proxies_routers_and_clocks_are_normal_conditions(tmp_path: Path) -> None:
    """One link is slow and cut for a while; one site has a proxy and is 4 minutes behind, one a router and is an hour ahead."""
    sites = ("cut", "proxied", "routed")
    with field(tmp_path, sites, mbit_s={"cut": 10}, nat=["routed"], proxied=["proxied"]) as f, contextlib.ExitStack() as stack:
        living = stack.enter_context(Living(f.config(dead_man_s=60), f.run, within=f.there.hub))
        proxy, proxied = hosts.proxy(tmp_path / "proxy", f.there, "proxied")
        stack.enter_context(hosts.process(tmp_path / "proxy", proxy))
        f.join("cut")
        f.join("proxied", **proxied, **hosts.clock_off(tmp_path / "behind", -240))
        f.join("routed", **hosts.clock_off(tmp_path / "ahead", 3600))
        wait_for("a version of all three", lambda: any(len(e.detail["sites"]) == 3 for e in told(f.run, "commit")))
        begun = clock.monotonic()
        f.there.cut("cut")
        f.there.lose("routed", to_site=100)
        wait_for("the others to go on without it", lambda: _rounds_without(f.run, "cut") >= 1)
        past(begun, 10)
        f.there.mend("cut")
        f.there.lose("routed", from_site=5)
        f.trains_on("cut")
        living.send(signal.SIGINT)
        code = living.end()
        assert code == 130, living.said + f.said()
    # As far as the way of the question lets it be known.
    ahead = re.search(r"clock is (\d+) s ahead of the run's", f.log("routed"))
    behind = re.search(r"clock is (\d+) s behind the run's", f.log("proxied"))
    assert ahead is not None
    assert behind is not None
    assert int(ahead[1]) == pytest.approx(3600, abs=60)
    assert int(behind[1]) == pytest.approx(240, abs=60)
    f.whole(to_the_end=False)


@at_length
def test_a_minute_without_a_link_in_both_directions_or_in_one_loses_nothing(tmp_path: Path) -> None:
    """One of the sites has a clock that is 4 s ahead, at which Flower alone would still take it."""
    with field(tmp_path, ("cut", "other"), mbit_s={"cut": 10}) as f, contextlib.ExitStack() as stack:
        living = stack.enter_context(Living(f.config(round_s=40, dead_man_s=150), f.run, within=f.there.hub))
        f.join("cut")
        f.join("other", **hosts.clock_off(tmp_path / "ahead", 4))
        f.together(2)
        for lost in ({"to_site": 100, "from_site": 100}, {"to_site": 100}, {"from_site": 100}):
            begun = clock.monotonic()
            f.there.lose("cut", **lost)
            f.trains_on("other")
            past(begun, 60)
            f.there.lose("cut", to_site=2, from_site=2)
            f.trains_on("cut")
            f.together(2)
        living.send(signal.SIGINT)
        code = living.end()
        assert code == 130, living.said + f.said()
    f.whole(to_the_end=False)
    assert not events(f.run, "work_lost", "discarded", "refused")
    assert f.lives() == {"cut": 1, "other": 1}, "nobody began anew"


@at_length
def test_a_site_whose_link_never_comes_back_keeps_no_run_from_its_end_and_stops_by_itself(tmp_path: Path) -> None:
    with field(tmp_path, ("lost", "other")) as f, contextlib.ExitStack() as stack:
        config = f.config(blocks=8000, dead_man_s=40, heartbeat_timeout_s=30)
        living = stack.enter_context(Living(config, f.run, within=f.there.hub))
        f.join("lost")
        f.join("other")
        f.together(2)
        f.trains_on("lost")
        f.there.lose("lost", to_site=100, from_site=100)
        code = living.end()
        assert code == 0, living.said + f.said()
        wait_for("it to stop", lambda: not [line for line in f.there.command_lines("lost") if "trainer" in line])
        f.whole(to_the_end=True)
        assert [e["site"] for e in events(f.run, "out_of_reach")] == ["lost"]


@at_length
@pytest.mark.parametrize("drained", [True, False], ids=["in order", "its machine died"])
def test_a_coordinator_that_moves_is_found_by_its_name_or_where_its_sites_are_told(tmp_path: Path, drained: bool) -> None:
    sites = ("named", "addressed")
    with field(tmp_path, sites) as f, contextlib.ExitStack() as stack:
        config = f.config(address=NAME, dead_man_s=120)
        with Living(config, f.run, within=f.there.hub) as living:
            f.join("named")
            f.join("addressed", at=ADDRESS)
            f.together(2)
            if drained:
                living.send(signal.SIGINT)
                assert living.end() == 130, living.said + f.said()
        f.there.move()
        names = [word for name in (NAME, MOVED) for word in ("--address", name)]
        assert windfall("certs", "init", f.certificates, *names).returncode == 0
        living = stack.enter_context(Living(config, f.run, within=f.there.hub))
        f.trains_on("named")
        url = f.invited_to["addressed"].replace(NAME, MOVED)
        f.at("addressed", "move", url)
        f.trains_on("addressed")
        f.together(2)
        living.send(signal.SIGINT)
        code = living.end()
        assert code == 130, living.said + f.said()
        assert f"the run is at {url} from now on" in f.said()
        f.whole(to_the_end=False)
        assert f.lives() == {"named": 2 if drained else 1, "addressed": 2}, "who finds it by its name goes on as it was"


@at_length
def test_the_guide_to_two_machines_leads_to_a_federated_round_as_it_stands(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "sites.md").read_text().partition("## Two machines")[2].partition("\n| ")[0]
    signal_, config, here, there_ = re.findall(r"```(?:toml)?\n(.*?)```", guide, flags=re.S)
    coordinator, lab = tmp_path / "coordinator", tmp_path / "lab"
    coordinator.mkdir()
    lab.mkdir()
    (coordinator / "open.csv").write_text(signal_)
    (coordinator / "run.toml").write_text(config)
    typed = [line.split("#")[0].split() for line in [*here.splitlines(), *there_.splitlines()]]
    assert [words[0] for words in typed] == ["windfall"] * 4 + ["scp", "windfall"]
    run = coordinator / "runs" / "first"
    with hosts.hosts(["lab"]) as there, contextlib.ExitStack() as stack:

        def at(namespace: str, words: Sequence[str]) -> list[str]:
            return inside(namespace, [sys.executable, "-m", *words])

        for words in typed:
            if words[1] == "run":
                running = stack.enter_context(hosts.process(coordinator, at(there.hub, words)))
                wait_for("the run", lambda: (run / "telemetry.db").is_file() and (run / "config.toml").is_file())
            elif words[0] == "scp":
                for name in words[1:-1]:
                    (lab / Path(name).name).write_bytes((coordinator / name).read_bytes())
            elif words[1:3] == ["site", "join"]:
                stack.enter_context(hosts.process(lab, at(there.namespaces["lab"], words)))
            else:
                done = subprocess.run(at(there.hub, words), cwd=coordinator, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (words, done.stderr)
        wait_for("a federated round", lambda: any(len(e.detail["sites"]) == 2 for e in told(run, "round")))
        wait_for("both in a version", lambda: any(len(e.detail["sites"]) == 2 for e in told(run, "commit")))
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130


def told(run: Path, *kinds: str) -> list[Event]:
    """A run's events of these kinds so far."""
    try:
        telemetry = Telemetry.open(RunDir(run).telemetry, read_only=True)
    except StoreError:  # it is being made
        return []
    try:
        return [e for _, e in telemetry.events() if e.kind in kinds]
    finally:
        telemetry.close()


def _rounds_without(run: Path, site: str) -> int:
    """Joint rounds that were closed, or have begun, without a site since all were together."""
    together = False
    found = 0
    for e in told(run, "round", "round_closed_without"):
        if e.kind == "round":
            together = together or len(e.detail["sites"]) == 3
        found += together and (e.kind == "round_closed_without" or (e.kind == "round" and site not in e.detail["sites"]))
    return found
