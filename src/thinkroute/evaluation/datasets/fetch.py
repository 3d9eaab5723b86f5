"""Downloading a data set's files from public hubs.

Owns one promise: a file is in its folder complete and checked, or not there at all. Downloads go to a `.part` file
first. Where a SHA-256 is known it must match; where none is known the digest found is returned for the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.datasets.source import DataSet, RemoteFile

TIMEOUT_S: Final = 30.0
_CHUNK_BYTES: Final = 1 << 20

Progress = Callable[[str, int, int | None], None]
"""Called with file name, bytes so far, and total bytes or None when the hub does not say."""


def fetch(dataset: DataSet, folder: Path, progress: Progress | None = None) -> dict[str, str]:
    """Download the files that are not there yet; file name → SHA-256 of every file.

    Raises:
        ConfigError: the data set has no downloadable form.
        DataError: the network or the hub refuses, or a digest does not match.
    """
    if not dataset.remote:
        raise ConfigError(
            f"data set {dataset.name} has no file that can be used as published: it joins several files of "
            f"{dataset.source}; docs/evaluation.md describes the columns its converter reads"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return {remote.name: _one(remote, folder / remote.name, progress) for remote in dataset.remote}


def _one(remote: RemoteFile, path: Path, progress: Progress | None) -> str:
    if not path.is_file():
        unfinished = path.with_name(path.name + ".part")
        try:
            _download(remote, unfinished, progress)
            _check(remote, _digest(unfinished))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    digest = _digest(path)
    _check(remote, digest, path)
    return digest


def _download(remote: RemoteFile, path: Path, progress: Progress | None) -> None:
    if not remote.url.startswith(("https://", "http://")):
        raise ConfigError(f"{remote.url}: only http and https are fetched")
    request = Request(remote.url, headers={"User-Agent": "thinkroute"})  # noqa: S310  # scheme checked above
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer, path.open("wb") as file:  # noqa: S310
            length = answer.headers.get("Content-Length")
            total, done = int(length) if length else None, 0
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(remote.name, done, total)
    except HTTPError as error:
        raise DataError(f"{remote.url}: the hub answered {error.code} {error.reason}") from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise DataError(
            f"{remote.url}: cannot be fetched ({reason}); without network, put the file at {path.with_suffix('')} yourself"
        ) from error
    if total is not None and done != total:
        raise DataError(f"{remote.url}: the connection ended after {done} of {total} bytes; try again")


def _check(remote: RemoteFile, digest: str, path: Path | None = None) -> None:
    if remote.sha256 is not None and digest != remote.sha256:
        where = f"{path}: delete it and fetch again" if path else f"{remote.url}: not kept"
        raise DataError(f"{where}; its SHA-256 is {digest}, expected {remote.sha256}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
