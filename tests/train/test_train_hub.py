"""Data sets of Hugging Face by name, against a stand-in for the hub on this machine."""

from __future__ import annotations

import gzip
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import close_session

from train.hub_server import COMMIT, serve
from windfall.errors import DataError
from windfall.train.corpus import open_corpus

REPO = "HuggingFaceFW/fineweb-edu"
CARD = """---
license: odc-by
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
  - split: test
    path: sample/test/*
---
# FineWeb-Edu
"""


def rows(*texts: str) -> bytes:
    """A parquet file as FineWeb-Edu has it."""
    table = pa.table({"text": list(texts), "id": [str(i) for i in range(len(texts))], "score": [3.0] * len(texts)})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


FILES = {
    "README.md": CARD.encode(),
    "data/CC-MAIN-2024-10/000_00000.parquet": rows("a whole crawl"),
    "data/CC-MAIN-2024-18/000_00000.parquet": rows("another crawl"),
    "sample/10BT/001_00000.parquet": rows("second file", "größe"),
    "sample/10BT/000_00000.parquet": rows("first file"),
    "sample/test/000_00000.parquet": rows("never train on this"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def texts(source: str) -> list[str]:
    return [document.decode() for document in open_corpus(source).documents()]


def test_a_subset_is_a_configuration_or_a_path_and_no_more_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(REPO, FILES) as (address, fetched):
        monkeypatch.setenv("HF_ENDPOINT", address)
        corpus = open_corpus(f"hf:{REPO}/sample-10BT")
        assert [text.decode() for text in corpus.documents()] == ["first file", "second file", "größe"]
        assert corpus.name == f"hf:{REPO}@{COMMIT}/sample-10BT"
        assert sorted(fetched) == ["README.md", "sample/10BT/000_00000.parquet", "sample/10BT/001_00000.parquet"]
        assert texts(f"hf:{REPO}/sample/10BT/000_00000.parquet") == ["first file"]
        assert texts(f"hf:{REPO}/data/CC-MAIN-2024-18") == ["another crawl"]
        assert texts(f"hf:{REPO}") == ["a whole crawl", "another crawl"]
        assert texts(f"hf:{REPO}@{COMMIT}/sample-10BT") == ["first file", "second file", "größe"]
        assert len(fetched) == len(set(fetched))


def test_without_a_network_what_is_in_the_cache_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(REPO, FILES) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        first = open_corpus(f"hf:{REPO}/sample-10BT")
    again = open_corpus(f"hf:{REPO}/sample-10BT")
    assert again == first


def test_compressed_rows_are_a_data_set_and_what_lies_beside_rows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    line = b'{"text": "%s"}\n'
    c4 = {
        "README.md": b"# C4", "dataset_infos.json": b"{}", "en/c4-train.00001-of-00002.json.gz": gzip.compress(line % b"second"),
        "en/c4-train.00000-of-00002.json.gz": gzip.compress(line % b"first"), "en/about.png": b"picture",
    }  # fmt: skip
    with serve(REPO, c4) as (address, fetched):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert texts(f"hf:{REPO}") == ["first", "second"]
        assert "en/about.png" not in fetched
        corpus = open_corpus(f"hf:{REPO}/en")
        assert [text.decode() for text in corpus.documents()] == ["first", "second"]
        assert corpus.notes() == [f"{corpus.name}: en/about.png left out: pictures, sound or fonts"]
    with serve("some/thing", {"a.jsonl": line % b"row", "a.txt": b"about it", "b.arrow": b"ARROW1"}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert texts("hf:some/thing") == ["row"]
        with pytest.raises(DataError, match=r"b\.arrow left out: Arrow, which is not read; write it as parquet"):
            open_corpus("hf:some/thing/b.arrow")


class _No(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_proxy_that_refuses_or_is_dead_is_told_as_that_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("HF_TOKEN", "hf_secrettoken")
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _No)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        for proxy, said in (
            (f"127.0.0.1:{server.server_port}", r"through the proxy 127\.0\.0\.1:\d+ the hub cannot be reached \(403 Forbidden\)"),
            ("127.0.0.1:9", r"the hub cannot be reached through the proxy 127\.0\.0\.1:9 and the cache does not hold it"),
        ):
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:password@{proxy}")
            # The hub's client keeps its connections, with the proxy of its first request.
            close_session()
            with pytest.raises(DataError, match=said) as caught:
                open_corpus("hf:some/thing")
            assert "password" not in str(caught.value)
            assert "secrettoken" not in str(caught.value)
    finally:
        close_session()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_token_that_is_none_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secretß")
    with pytest.raises(DataError, match="HF_TOKEN holds what no token does; set it anew") as caught:
        open_corpus("hf:some/thing")
    assert "secret" not in str(caught.value)


def test_offline_by_the_environment_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set and the cache does not hold it; unset that, or name a folder"):
        open_corpus("hf:some/thing")


def test_what_cannot_be_had_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(REPO, FILES) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DataError, match="configurations are default, sample-10BT"):
            open_corpus(f"hf:{REPO}/sample-7BT")
        with pytest.raises(DataError, match=r"hf:some/thing: the hub answered 404; no such data set"):
            open_corpus("hf:some/thing")
    with pytest.raises(DataError, match="not a data set's name"):
        open_corpus("hf:fineweb")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot be reached and the cache does not hold it"):
        open_corpus("hf:some/thing")
