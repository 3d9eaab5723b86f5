"""Downloads against a real server on the loopback address: complete and checked, or not there."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.datasets import DATASETS, dataset
from thinkroute.evaluation.datasets.bigmath_solverate import convert
from thinkroute.evaluation.datasets.fetch import fetch
from thinkroute.evaluation.datasets.source import DataSet, RemoteFile

CONTENT = b"question,answer\n" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/cut" else CONTENT)

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def remote(url: str, sha256: str | None = None) -> DataSet:
    return DataSet(
        "d", "title", "MIT", "https://example.org", convert, (RemoteFile(url, "file.csv", sha256),)
    )


def test_a_file_is_downloaded_checked_and_not_downloaded_again(hub: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []

    def note(name: str, done: int, total: int | None) -> None:
        seen.append((name, done, total))

    assert fetch(remote(f"{hub}/file", DIGEST), tmp_path / "d", note) == {"file.csv": DIGEST}
    assert (tmp_path / "d" / "file.csv").read_bytes() == CONTENT
    assert seen[-1] == ("file.csv", len(CONTENT), len(CONTENT))
    seen.clear()
    assert fetch(remote("http://127.0.0.1:1/gone", DIGEST), tmp_path / "d", note) == {"file.csv": DIGEST}
    assert not seen


def test_an_unknown_digest_is_reported(hub: str, tmp_path: Path) -> None:
    assert fetch(remote(f"{hub}/file"), tmp_path) == {"file.csv": DIGEST}


@pytest.mark.parametrize(
    ("path", "sha256", "words"),
    [
        ("/file", "0" * 64, "not kept; its SHA-256 is"),
        ("/absent", None, "the hub answered 404"),
        ("/cut", None, r"ended after \d+ of \d+ bytes|cannot be fetched"),
    ],
)
def test_a_bad_download_leaves_nothing(
    hub: str, tmp_path: Path, path: str, sha256: str | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        fetch(remote(hub + path, sha256), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_network_the_message_says_where_to_put_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"without network, put the file at .*file\.csv yourself"):
        fetch(remote("http://127.0.0.1:1/file"), tmp_path)


def test_a_changed_file_is_refused(hub: str, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_bytes(b"changed")
    with pytest.raises(DataError, match="delete it and fetch again"):
        fetch(remote(f"{hub}/file", DIGEST), tmp_path)


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only http"):
        fetch(remote("file:///etc/passwd"), tmp_path)


def test_data_sets_without_a_usable_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file that can be used as published"):
        fetch(dataset("routerdc-7llm"), tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_every_address_is_pinned_to_a_commit(name: str) -> None:
    for file in dataset(name).remote:
        parts = file.url.split("/")
        assert parts[0] == "https:"
        assert any(len(part) == 40 and set(part) <= set("0123456789abcdef") for part in parts)
