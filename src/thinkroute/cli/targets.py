"""Where a command writes and reads, checked before the work begins."""

from __future__ import annotations

from pathlib import Path

from thinkroute.errors import ConfigError

_FIGURES = (".png", ".svg", ".pdf")


def check_file(path: Path | None, option: str) -> None:
    """A file that can be written; it is left as it was.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    if path is None:
        return
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be written: {error.strerror}", param=option) from error


def check_figure(path: Path | None, option: str) -> None:
    """A figure that can be written.

    Raises:
        ConfigError: the suffix is no figure's, or the file cannot be written.
    """
    if path is not None and path.suffix not in _FIGURES:
        raise ConfigError(f"{option} {path}: a figure ends in {', '.join(_FIGURES)}", param=option)
    check_file(path, option)


def make_folder(path: Path, option: str) -> None:
    """A folder to write to, made when it is not there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be made: {error.strerror}", param=option) from error
    check_file(path / ".thinkroute-write-check", option)


def check_folder(path: Path | None, option: str) -> None:
    """A folder to read from.

    Raises:
        ConfigError: it is not there.
    """
    if path is not None and not path.is_dir():
        raise ConfigError(f"{option} {path}: no such folder", param=option)
