"""Opening the SQLite file of the decision log: its settings, its schema version and the migrations to it.

Invariants: a file of a newer schema, or one that is not ours, is refused and left untouched; Alembic is imported only
when a file is behind; two processes that open a fresh file at once do not migrate it twice.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from thinkroute.errors import ConfigError
from thinkroute.store.tables import METADATA

REVISIONS = ("0001",)
"""All schema versions this code knows, oldest first."""

_BUSY_TIMEOUT_S = 10.0


def open_database(path: Path) -> Engine:
    """An engine on the file, created or brought up to date first.

    Raises:
        ConfigError: the file cannot be opened, is not a decision log, or was written by a newer thinkroute.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_TIMEOUT_S},
        hide_parameters=True,  # a failing statement is logged, and records hold what people asked
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        _touch(path)
        with engine.connect() as connection:
            version = _version(connection, path)
        if version != REVISIONS[-1]:
            _use_write_ahead_log(engine)
            _bring_up_to_date(engine, path)
    except (DBAPIError, OSError) as error:
        engine.dispose()
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigError(
            f"store.path: cannot open the decision log {path}: {cause}", param="store.path"
        ) from None
    except ConfigError:
        engine.dispose()
        raise
    return engine


def _touch(path: Path) -> None:
    """Create the file readable by its owner alone: it may hold what people asked."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_on_begin`, also around DDL
    connection.execute("PRAGMA synchronous = FULL").close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: Connection, path: Path) -> str | None:
    """The schema version of the file; None for an empty file.

    Raises:
        ConfigError: the file holds other tables, or a schema this code does not know.
    """
    names = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
    if not names:
        return None
    if "alembic_version" not in names or "decisions" not in names:
        raise ConfigError(
            f"store.path: {path} is a database, but not a decision log; use another file", param="store.path"
        )
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version not in REVISIONS:
        raise ConfigError(
            f"store.path: {path} has schema {version!r}, this thinkroute knows up to {REVISIONS[-1]!r}: it was written"
            " by a newer thinkroute; upgrade, or use another file",
            param="store.path",
        )
    return version


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers and the writer do not wait for each other. The file remembers the mode."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        raw.close()


def _bring_up_to_date(engine: Engine, path: Path) -> None:
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        version = _version(connection, path)  # again, under the lock: another process may have been faster
        if version is None:
            _create(connection)
        elif version != REVISIONS[-1]:
            migrate(connection)


def _create(connection: Connection) -> None:
    """The newest schema at once; a test holds it equal to the migrations' result."""
    METADATA.create_all(connection)
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": REVISIONS[-1]})


def migrate(connection: Connection, revision: str = "head") -> None:
    """Upgrade the schema to a revision inside the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "thinkroute.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
