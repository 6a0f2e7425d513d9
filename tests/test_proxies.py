"""Nothing on this machine goes through a proxy; other addresses follow the environment, in every spelling that there is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import httpx
import pytest
import requests

from grid.servers import JsonServer
from patience import PATIENCE_S
from proxy import dead_proxy, refusing_proxy
from windfall import proxies
from windfall.errors import SignalError
from windfall.grid.http import Http, TryLater

OUTSIDE = "https://api.watttime.org/v3/forecast"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "WINDFALL_PROXY_SETTINGS":
            monkeypatch.delenv(name)
    return monkeypatch


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """As the command line's start and every process of a run have it."""
    for name, value in proxies.settled(environment).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "p:3128"}, "http://p:3128"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://high:1"}, "http://low:1"),
        ({"all_proxy": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:1"}, "http://q:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "watttime.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": " example.org , .watttime.org "}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*.watttime.org"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.watttime.org:443"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.watttime.org:8443"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "time.org"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[::1],fe80::/10"}, "http://p:1"),
    ],
)
def test_an_address_elsewhere_goes_as_the_environment_says(environment: dict[str, str], proxy: str | None) -> None:
    for env in (environment, proxies.settled(environment), proxies.settled(proxies.settled(environment))):
        assert proxies.way(OUTSIDE, env).proxy == proxy, env


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "a.localhost", "[::1]", "0.0.0.0", socket.gethostname()])
def test_this_machine_is_asked_straight_whatever_the_environment_says(host: str) -> None:
    env = {"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1", "NO_PROXY": "example.org"}
    for environment in (env, proxies.settled(env)):
        assert proxies.way(f"http://{host}:8080/x", environment) == proxies.ProxyRoute()


@pytest.mark.parametrize(("entry", "url", "straight"), [
    ("10.0.0.0/8", "http://10.2.3.4/", True), ("10.0.0.0/8", "http://11.2.3.4/", False), ("fe80::/10", "http://[fe80::7]/", True),
    ("10.2.3.4", "http://10.2.3.4:99/", True), ("http://h.lan", "http://h.lan/", True), ("https://h.lan", "http://h.lan/", False),
])  # fmt: skip
def test_ranges_and_schemes_in_no_proxy_count(entry: str, url: str, *, straight: bool) -> None:
    env = proxies.settled({"HTTP_PROXY": "http://p:1", "NO_PROXY": entry})
    assert (proxies.way(url, env).proxy is None) is straight


@pytest.mark.parametrize(("name", "value", "why"), [
    ("ALL_PROXY", "socks5://p:1080", "socksio"), ("all_proxy", "socks://p:1080", "begins with socks://"),
    ("HTTPS_PROXY", "http://wind:pa55@p:port", "no address"), ("HTTPS_PROXY", "http://", "no address"),
    ("https_proxy", "http://wind:pa55@p q", "no address"), ("HTTPS_PROXY", "ftp://wind:pa55@p:1", "begins with ftp://"),
])  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_told_only_where_it_is_needed_and_never_with_its_password(
    clean: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    use(clean, {name: value})
    fault = proxies.way(OUTSIDE).fault
    assert why in fault
    assert name in fault
    assert "pa55" not in fault
    assert name not in proxies.settled({name: value}), "no library stumbles over it"
    assert proxies.way("http://127.0.0.1:1/") == proxies.ProxyRoute()
    with pytest.raises(SignalError, match="cannot be asked"):
        Http("w", timeout_s=1).get(OUTSIDE)
    with JsonServer({"v": 1}) as server:
        assert Http("w", timeout_s=PATIENCE_S).get(server.url) == {"v": 1}


def test_libraries_too_ask_this_machine_straight(clean: pytest.MonkeyPatch) -> None:
    with refusing_proxy() as proxy, JsonServer({"v": 1}) as server:
        for user in ({}, {"no_proxy": "", "NO_PROXY": "[::1],example.org"}):
            use(clean, {**proxy.environment(), **user})
            for host in ("127.0.0.1", "localhost"):
                url = server.url.replace("127.0.0.1", host)
                assert httpx.get(url, timeout=PATIENCE_S).json() == {"v": 1}
                assert requests.get(url, timeout=PATIENCE_S).json() == {"v": 1}
                assert Http("w", timeout_s=PATIENCE_S).get(url) == {"v": 1}
        assert proxy.asked == []


def test_a_signal_elsewhere_is_asked_through_the_proxy_and_the_message_says_so_without_its_password(
    clean: pytest.MonkeyPatch,
) -> None:
    with refusing_proxy() as proxy:
        use(clean, proxy.environment())
        with pytest.raises(TryLater, match=rf"through the proxy http://127.0.0.1:{proxy.port} .*403") as told:
            Http("w", timeout_s=PATIENCE_S).get(OUTSIDE)
        assert proxy.asked == ["CONNECT api.watttime.org:443"]
        assert "s3cret" not in str(told.value)
        assert "s3cret" not in str(proxies.way(OUTSIDE))
    use(clean, {"HTTPS_PROXY": dead_proxy()})
    with pytest.raises(TryLater, match=r"no connection to api\.watttime\.org through the proxy"):
        Http("w", timeout_s=PATIENCE_S).get(OUTSIDE)


def test_check_says_which_way_each_address_goes(
    clean: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from windfall.config.load import load
    from windfall.run.addresses import addresses

    use(clean, {"HTTPS_PROXY": "http://wind:pa55@p:3128", "NO_PROXY": "inside.example"})
    site = (
        '[[site]]\nname = "{0}"\nregion = "r"\ntokens_per_s = 9\nspin_up_s = 9\ntrain_power_w = 9\nidle_power_w = 1\n'
        '[site.signal]\nkind = "http"\nvalue_path = "v"\nurl = "{1}"\n'
    )
    urls = {"a": "https://grid.example/v?key=k3y", "b": "http://127.0.0.1:8123/v", "c": "https://x.inside.example/v"}
    (tmp_path / "c.toml").write_text(
        '[run]\nname = "w"\nbudget_tokens = 100000\nclock = "real"\nbus = "rediss://10.0.0.9:6379"\n[policy]\nname = "threshold"\n'
        '[data]\nsource = "hf:some/thing"\n[alerts]\nwebhook = "https://hook.inside.example/x"\n'
        '[[tracker]]\nkind = "mlflow"\nurl = "http://127.0.0.1:5000"\n'
        '[openadr]\nurl = "https://vtn.example/3"\nprogramme = "p"\nven_name = "v"\ntoken = "env:T"\n'
        + "".join(site.format(*x) for x in urls.items())
    )
    config = load(tmp_path / "c.toml")
    said = [f"{a.where}: {a.way}" for a in addresses(config)]
    assert said == [
        "https://grid.example/v?key=***: through the proxy http://p:3128 (HTTPS_PROXY)", "http://127.0.0.1:8123/v: straight",
        "https://x.inside.example/v: straight", "rediss://10.0.0.9:6379: straight (no proxy speaks Redis)",
        "https://huggingface.co: through the proxy http://p:3128 (HTTPS_PROXY)",
        "https://vtn.example/3: through the proxy http://p:3128 (HTTPS_PROXY)", "https://hook.inside.example/x: straight",
        "http://127.0.0.1:5000: straight",
    ]  # fmt: skip
