"""What a site elsewhere is given for the run's bus, and how all that it was given is taken away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import redis

from patience import wait_for
from store.redis_server import RedisServer
from windfall import clock
from windfall.cli.demo import bundled
from windfall.config.load import load, loads, to_toml
from windfall.errors import ConfigError
from windfall.run.endpoint_process import Tokens
from windfall.run.residents import revoke
from windfall.run.sites import DataFiles, describe_elsewhere
from windfall.site.trainer_process import own_bus
from windfall.store.ledger import Ledger
from windfall.store.redis_access import Login, SiteUsers, password_of, user_of
from windfall.store.redis_bus import RedisBus, RedisSiteBus
from windfall.store.redis_link import PASSWORD, connect
from windfall.store.residents import Resident
from windfall.store.rundir import RunDir
from windfall.wire.bulk_server import Denied, whose
from windfall.wire.certificates import make

TOKEN = "5" * 64


def run_of(folder: Path, bus: str = "embedded") -> RunDir:
    """A run in which a generation of the sites california (resident) and germany (command) has been started."""
    text = bundled("demo.toml").replace("[run]", f'[run]\nbus = "{bus}"', 1)
    command = 'driver = "command"\ndata = "/data"'
    table = '[site.command]\nup = ["u"]\ndown = ["d"]\nobserve = ["o"]\n\n[site.signal]'
    first, second, rest = text.split("[[site]]", 2)
    second = second.replace("threads = 2", 'driver = "resident"\ndata = "/data"')
    third, *others = rest.split("[[site]]")
    third = third.replace("threads = 2", command).replace("[site.signal]", table)
    config = loads("[[site]]".join([first, second, third, *others]), "demo.toml", folder)
    run = RunDir(folder / "run")
    run.make()
    run.config.write_text(to_toml(config))
    ledger = Ledger.create(run.ledger, run_id="r", fingerprint="f", budget_blocks=8, tokens_per_block=64)
    for site in config.site[:2]:
        ledger.asked(0.0, 0.0, site.name, 3, "ensure_up", "window")
        ledger.keep_token(site.name, 3, hashlib.sha256(f"{TOKEN}{site.name}".encode()).hexdigest())
    ledger.close()
    return run


def names(run: RunDir) -> list[str]:
    return [s.name for s in load(run.config).site]


def test_all_that_a_machine_was_given_is_good_no_longer_and_its_next_life_is_given_others(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    resident, command, local = names(run)
    files = Resident(run.sites, resident)
    key = files.join(files.invite(clock.wall() + 60), clock.wall())
    tokens = Tokens(run.ledger, run.sites)
    assert whose(f"Bearer {TOKEN}{resident}", tokens()).generation == 3
    assert revoke(run.root, resident) == ["its key is good no longer", "what its generation 3 was given is good no longer"]
    assert not files.has_key(key)
    with pytest.raises(Denied, match="has been revoked"):
        whose(f"Bearer {TOKEN}{resident}", tokens())
    assert whose(f"Bearer {TOKEN}{command}", tokens()).site == command
    ledger = Ledger.open(run.ledger)
    ledger.asked(1.0, 1.0, resident, 4, "ensure_up", "window")
    ledger.keep_token(resident, 4, hashlib.sha256(b"next").hexdigest())
    ledger.close()
    assert whose("Bearer next", tokens()).generation == 4
    assert revoke(run.root, command) == ["what its generation 3 was given is good no longer"]
    with pytest.raises(ConfigError, match="is on this machine, and has nothing that could be revoked"):
        revoke(run.root, local)
    with pytest.raises(ConfigError, match="no such site in this run"):
        revoke(run.root, "nowhere")


def test_a_site_elsewhere_is_given_its_way_to_redis_speaks_over_it_and_is_shut_out_by_revoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make(tmp_path / "certs", ["localhost"], clock.wall(), days=10)
    server = RedisServer(tmp_path, password="open-sesame", tls=(certificates.ca, certificates.endpoint, certificates.endpoint_key))
    monkeypatch.setenv(PASSWORD, "open-sesame")
    run = run_of(tmp_path, server.url)
    name = names(run)[1]
    config = load(run.config)
    told = describe_elsewhere(config, run, "r", name, 3, DataFiles(config, run))
    told["trainer"] = {}
    text = json.dumps(told)
    assert str(tmp_path / "certs") not in text, "no file of this machine's is of use there"
    assert TOKEN not in text
    assert password_of(f"{TOKEN}{name}") not in text
    users = SiteUsers("r", None, lambda kept: None)
    users.admit(name, 3, f"{TOKEN}{name}")
    coordinator = RedisBus(config.run.bus, "r", users)
    monkeypatch.delenv(PASSWORD)
    site = own_bus({**json.loads(text), "gated": False}, tmp_path / "away", f"{TOKEN}{name}")
    assert isinstance(site, RedisSiteBus)
    monkeypatch.setenv(PASSWORD, "open-sesame")
    site.emit({"n": 1})
    heard: list[object] = []
    wait_for("its words", lambda: heard.extend(e["n"] for e in coordinator.poll(name)) or heard)
    assert revoke(run.root, name)[-1] == "its user in Redis is gone"
    coordinator.close()
    with pytest.raises(redis.AuthenticationError):
        connect(told["bus"], Login(user_of("r", name), password_of(f"{TOKEN}{name}"), told["bus_ca"])).ping()
    server.kill()
    assert "could not be taken away from here (Redis at localhost" in revoke(run.root, name)[-1]
    site.close()
