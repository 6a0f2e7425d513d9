"""An operator's end of sites on other machines: how one is let in, and how it is shut out."""

from __future__ import annotations

from pathlib import Path

from windfall.config.drivers import ELSEWHERE
from windfall.config.load import stored
from windfall.config.schema import Config, SiteTable
from windfall.errors import ConfigError
from windfall.run.endpoint import endpoint_url
from windfall.run.requests import running
from windfall.store.bus_factory import with_users
from windfall.store.ledger import Ledger
from windfall.store.residents import Resident, revoke_lives
from windfall.store.rundir import RunDir


def resident_of(root: Path, name: str) -> tuple[Resident, str | None]:
    """The files of a run's resident site, and the address of the run's endpoint.

    Raises:
        ConfigError: there is no such site, or its driver is another one.
        StoreError: there is no run.
    """
    run, config, site = _site(root, name)
    if site.driver != "resident":
        raise ConfigError(f'{name}: its driver is {site.driver}; only machines of driver = "resident" join by themselves')
    return Resident(run.sites, name), endpoint_url(config, run, name)


def revoke(root: Path, name: str) -> list[str]:
    """Let nothing be good any more that a site on another machine was given: what was done, in words.

    That is its machine's key, the token of its current life, and that life's user in Redis. A next life is given others.

    Raises:
        ConfigError: there is no such site, or it is on this machine.
        StoreError: there is no run.
    """
    run, config, site = _site(root, name)
    if site.driver not in ELSEWHERE:
        raise ConfigError(f"{name}: is on this machine, and has nothing that could be revoked")
    done = []
    if site.driver == "resident":
        known = Resident(run.sites, name).revoke()
        done.append("its key is good no longer" if known else "no machine had joined, and none was invited")
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        generation = max((t.generation for t in ledger.tokens() if t.site == name), default=0)
        run_id = ledger.meta("run_id") or ""
    finally:
        ledger.close()
    if generation:
        revoke_lives(run.sites, name, generation)
        done.append(f"what its generation {generation} was given is good no longer")
    if generation and with_users(config.run.bus):
        done.append(_without_user(config.run.bus, run_id, name, lives=running(run)))
    return done


def _without_user(url: str, run_id: str, name: str, *, lives: bool) -> str:
    """Take a site's user in Redis away; what became of that. The coordinator does it too: it may have what this process lacks."""
    import redis

    from windfall.store.redis_access import user_of
    from windfall.store.redis_link import connect, why

    client = connect(url)
    try:
        client.acl_deluser(user_of(run_id, name))
    except (redis.RedisError, OSError) as e:
        then = "the coordinator does it within seconds" if lives else "the run does it when it goes on"
        return f"its user in Redis could not be taken away from here ({why(e, url)}); {then}"
    finally:
        client.close()
    return "its user in Redis is gone"


def _site(root: Path, name: str) -> tuple[RunDir, Config, SiteTable]:
    run = RunDir(root).open_existing()
    config = stored(run.config.read_text(encoding="utf-8"))
    site = next((s for s in config.site if s.name == name), None)
    if site is None:
        raise ConfigError(f"{name}: no such site in this run; there are {', '.join(s.name for s in config.site)}")
    return run, config, site
