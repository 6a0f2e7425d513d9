"""The HTTP client: what may pass is told from what cannot, limits are kept, and no message holds a secret."""

from __future__ import annotations

import base64
import gzip
import random
from email.utils import formatdate
from pathlib import Path

import pytest
from asking import Clock, T, nobody
from servers import Fault, JsonServer

from windfall.errors import SignalError, Transient, Unauthorized
from windfall.grid.http import AccessDenied, Http, NotFound, RateLimit, RateLimits, TryLater, backoff_s, public_url, retry_after_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def client(clock: Clock, **changes: float) -> Http:
    made = Http("test R", timeout_s=changes.get("timeout_s", 2.0), now=clock.now, pause=clock.pause, rng=random.Random(1),
                limits=RateLimits())  # fmt: skip
    made.patience_s = changes.get("patience_s", 0.0)
    return made


def fails(http: Http, url: str, **more: object) -> Exception:
    try:
        http.get(url, **more)  # type: ignore[arg-type]
    except (SignalError, Transient, Unauthorized) as e:
        return e
    finally:
        http.close()
    raise AssertionError("it answered")


def test_retry_after_is_read_as_seconds_or_as_a_date_and_is_capped() -> None:
    assert retry_after_s("120", T) == 120
    assert retry_after_s(formatdate(T + 90, usegmt=True), T) == 90
    assert retry_after_s(formatdate(T - 90, usegmt=True), T) == 0
    assert retry_after_s("99999999999", T) == 3600
    assert retry_after_s("soon", T) is None
    assert retry_after_s(None, T) is None


@pytest.mark.parametrize(
    ("headers", "wait"), [({"Retry-After": "77"}, 77.0), ({"Retry-After": formatdate(T + 200, usegmt=True)}, 200.0), ({}, None)]
)
def test_429_says_when_to_come_again_if_the_service_does(clock: Clock, headers: dict[str, str], wait: float | None) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(429, headers=headers))
        e = fails(client(clock), server.url)
    assert isinstance(e, TryLater)
    assert e.retry_after_s == wait
    assert clock.paused == []


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_broken_service_may_pass(clock: Clock, status: int) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(status, "<html>oops</html>", kind="text/html"))
        e = fails(client(clock), server.url)
    assert isinstance(e, TryLater)
    assert str(status) in str(e)
    assert "\n" not in str(e)


def test_a_timeout_a_closed_door_and_a_cut_line_may_pass(clock: Clock) -> None:
    with JsonServer({}) as server:
        server.faults += [Fault(hang=True), Fault(drop=True)]
        assert isinstance(slow := fails(client(clock, timeout_s=0.05), server.url), TryLater)
        assert isinstance(fails(client(clock), server.url), TryLater)
    with nobody() as url:
        assert isinstance(gone := fails(client(clock), url), TryLater)
    assert "no answer" in str(slow)
    assert "no connection to 127.0.0.1" in str(gone)


@pytest.mark.parametrize("body", ["<html>login here</html>", '{"a": 1', "", '{"a": ' * 5000])
def test_what_is_not_json_is_an_error_of_the_signal(clock: Clock, body: str) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(200, body, kind="text/html"))
        e = fails(client(clock), server.url)
    assert isinstance(e, SignalError)
    assert "not JSON" in str(e)


def test_other_statuses_are_told_apart_and_redirects_are_not_followed(clock: Clock) -> None:
    with JsonServer({}) as server:
        server.faults += [Fault(401), Fault(403), Fault(404), Fault(302, headers={"Location": "http://127.0.0.1:9/"})]
        found = [fails(client(clock), server.url) for _ in range(4)]
    assert [type(e) for e in found] == [AccessDenied, AccessDenied, NotFound, NotFound]
    assert [e.status for e in found if isinstance(e, AccessDenied | NotFound)] == [401, 403, 404, 302]
    assert all(isinstance(e, Unauthorized) for e in found[:2])


def test_a_bad_address_is_told_without_the_address(clock: Clock) -> None:
    for url in ("ftp://h/s3cret", "http://[::1/s3cret", "h/s3cret"):
        assert isinstance(e := fails(client(clock), url), SignalError)
        assert "s3cret" not in str(e)


def test_what_a_service_says_is_repeated_without_secrets(clock: Clock) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(403, '{"error": {"message": "token t0p-s3cret has no access\\nto this"}}'))
        http = client(clock)
        http.hide("t0p-s3cret")
        e = fails(http, server.url + "/x?api_key=t0p-s3cret", headers={"Authorization": "Bearer t0p-s3cret"})
    assert "token *** has no access to this" in str(e)
    assert "s3cret" not in repr(http) + repr(vars(e))


def test_urls_are_shown_without_what_may_be_secret() -> None:
    assert public_url("https://me:pw@h:8/p?zone=DE&api_key=abc&Token=d#f") == "https://h:8/p?zone=DE&api_key=***&Token=***"


def test_a_urls_own_query_stays(clock: Clock) -> None:
    with JsonServer({"ok": 1}) as server:
        http = client(clock)
        http.get(server.url + "/x?zone=DE", {"a": "1"})
        http.get(server.url + "/x?zone=DE")
        http.close()
        assert [a.query for a in server.asked] == [{"zone": "DE", "a": "1"}, {"zone": "DE"}]


def test_patience_tries_again_and_waits_as_told_and_no_longer(clock: Clock) -> None:
    with JsonServer({"ok": 1}) as server:
        server.faults += [Fault(503), Fault(429, headers={"Retry-After": "2"})]
        http = client(clock, patience_s=5.0)
        assert http.get(server.url) == {"ok": 1}
        assert len(clock.paused) == 2
        assert clock.paused[1] >= 2
        server.faults.append(Fault(429, headers={"Retry-After": "60"}))
        assert isinstance(fails(http, server.url), TryLater)
    assert len(clock.paused) == 2
    assert http.requests == 4


def test_our_own_limit_is_kept_without_asking(clock: Clock) -> None:
    with JsonServer({}) as server:
        http = client(clock)
        for _ in range(3):
            http.get(server.url, limit=("requests", 3, 300.0))
        clock.t += 100
        e = fails(http, server.url, limit=("requests", 3, 300.0))
        assert isinstance(e, TryLater)
        assert e.retry_after_s == 200
        assert len(server.asked) == 3
        clock.t += 201
        http.get(server.url, limit=("requests", 3, 300.0))
        http.close()


def test_no_window_of_the_limit_ever_holds_more() -> None:
    limit = RateLimit(5, 10.0)
    rng = random.Random(0)
    t, sent = 0.0, []
    for _ in range(400):
        t += rng.uniform(0, 1)
        if limit.take(t) == 0:
            sent.append(t)
    assert all(later - first >= 10.0 for first, later in zip(sent, sent[5:], strict=False))
    assert limit.take(t - 1000) == 0  # a calendar that was set back does not lock it


def test_backoff_doubles_with_jitter_is_capped_and_never_sooner_than_told() -> None:
    rng = random.Random(3)
    delays = [backoff_s(n, 15.0, rng) for n in range(1, 12)]
    assert all(15 * 2 ** (n - 1) * 0.5 <= d <= 15 * 2 ** (n - 1) for n, d in enumerate(delays[:6], 1))
    assert all(450 <= d <= 900 for d in delays[7:])
    assert len(set(delays)) == len(delays)
    assert backoff_s(1, 15.0, rng, at_least_s=3000.0) == 3000
    assert backoff_s(5000, 15.0, rng) <= 900


def test_a_service_that_trickles_or_never_stops_is_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Racing(Clock):
        def now(self) -> float:
            self.t += 10
            return self.t

    with JsonServer({"v": 1}) as server:
        e = fails(client(Racing()), server.url)
        assert isinstance(e, TryLater)
        assert "too slowly" in str(e)
        monkeypatch.setattr("windfall.grid.http._MAX_BYTES", 3)
        assert isinstance(e := fails(client(clock), server.url), SignalError)
        assert "more than" in str(e)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("<html><head><title>Too many requests &amp; such</title>", "text/html", "(HTTP 429: Too many requests & such)"),
        ("<!DOCTYPE html>\n<body><h1>Slow down</h1>", "text/html", "(HTTP 429: Slow down)"),
        ("slow down,\n please", "text/plain", "(HTTP 429: slow down, please)"),
        ('{"errors": [{"title": "Limit", "detail": "60 an hour"}]}', "application/json", "(HTTP 429: 60 an hour)"),
        ('"later"', "application/json", "(HTTP 429: later)"),
        ("<html><body/>", "text/html", "(HTTP 429)"),
        ("{broken", "application/json", "(HTTP 429)"),
        ("", "text/plain", "(HTTP 429)"),
    ],
)
def test_the_services_own_words_are_told_however_it_says_them(clock: Clock, body: str, kind: str, words: str) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(429, body, kind=kind))
        assert words in str(fails(client(clock), server.url))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("http://127.0.0.1:9/new?api_key=q-s3cret&zone=DE", "http://127.0.0.1:9/new?api_key=***&zone=DE"),
        ("/login", "/login (HTTP 3"),
    ],
)
def test_a_redirect_says_where_to_and_nothing_is_sent_there(clock: Clock, status: int, location: str, there: str) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(status, "", headers={"Location": location}))
        e = fails(client(clock), server.url + "/old", headers={"X-Key": "t0p-s3cret"})
        assert server.paths() == ["/old"]
    assert f"sends on to {there if there.startswith('http') else server.url + there}" in str(e)
    assert "set the address in the configuration" in str(e)
    assert "s3cret" not in str(e)


def test_a_name_that_nobody_knows_is_told_as_that(clock: Clock) -> None:
    e = fails(client(clock), "http://nowhere.invalid/x")
    assert isinstance(e, TryLater)
    assert "the name nowhere.invalid cannot be looked up" in str(e)


def test_a_certificate_that_cannot_be_verified_names_the_variable_that_helps(clock: Clock, tmp_path: Path) -> None:
    with JsonServer({"v": 1}) as server:
        server.encrypt(tmp_path)
        e = fails(client(clock), server.url)
    assert isinstance(e, TryLater)
    assert "its certificate cannot be verified: self-signed certificate" in str(e)
    assert "SSL_CERT_FILE" in str(e)


def test_certificates_that_cannot_be_read_are_told(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "none.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        e = fails(client(clock), "https://127.0.0.1:9/")
        assert isinstance(e, SignalError)
        assert "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read" in str(e)


def test_no_spelling_of_a_secret_is_repeated(clock: Clock) -> None:
    with JsonServer({}) as server:
        http = client(clock)
        http.hide("p/4 s3cret")
        basic = base64.b64encode(b"me:p/4 s3cret").decode()
        for spelled in ("p/4 s3cret", "p%2F4%20s3cret", "p/4%20s3cret", basic):
            server.faults.append(Fault(403, f"no access for <{spelled}> here", kind="text/plain"))
            e = fails(http, server.url, auth=("me", "p/4 s3cret"))
            assert "no access for <***> here" in str(e)
            assert isinstance(e, AccessDenied)
            assert "s3cret" not in e.answer


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (204, "", "answers nothing, which is not JSON (HTTP 204)"),
        (200, "\n", "answers nothing"),
        (200, "<title>Sign in</title>", "text/html that is not JSON (HTTP 200: Sign in)"),
    ],
)
def test_an_answer_that_is_none_is_told_as_what_it_is(clock: Clock, status: int, body: str, words: str) -> None:
    with JsonServer({}) as server:
        server.faults.append(Fault(status, body, kind="text/html"))
        assert words in str(fails(client(clock), server.url))


def test_a_byte_order_mark_and_a_packed_body_are_json_and_a_broken_one_may_pass(clock: Clock) -> None:
    with JsonServer({}) as server:
        packed = gzip.compress(b'{"v": 2}')
        server.faults += [
            Fault(200, b"\xef\xbb\xbf" + b'{"v": 1}'), Fault(200, packed, headers={"Content-Encoding": "gzip"}),
            Fault(200, b"nonsense", headers={"Content-Encoding": "gzip"}),
        ]  # fmt: skip
        http = client(clock)
        assert [http.get(server.url) for _ in range(2)] == [{"v": 1}, {"v": 2}]
        assert isinstance(fails(http, server.url), TryLater)
