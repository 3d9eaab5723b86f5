"""The file: durable when it says so, bounded when it cannot keep up, and honest about its version."""

import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from thinkroute.errors import ConfigError, DataError
from thinkroute.store import DecisionRecord, FeedbackRecord
from thinkroute.store.database import REVISIONS, migrate, open_database
from thinkroute.store.sqlite import SqliteStore
from thinkroute.store.tables import METADATA

_WRITE_THEN_HANG = """
import sys, time
from thinkroute.store import DecisionRecord, FeedbackRecord
from thinkroute.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
for number in range(1000):
    store.put(DecisionRecord(decision_id=f"dec_{number}", created_at=number, status="ok", cost_usd=0.5))
store.flush()
store.put(DecisionRecord(decision_id="graded", created_at=1e6, status="ok"))
store.add_feedback("graded", FeedbackRecord(score=1.0))
print("flushed", flush=True)
while True:
    store.put(DecisionRecord(decision_id=f"late_{time.time_ns()}", created_at=2e6, status="ok"))
    time.sleep(0.001)
"""


def test_what_was_flushed_survives_a_kill(database: Path) -> None:
    command = [sys.executable, "-c", _WRITE_THEN_HANG, str(database)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"flushed\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    store = SqliteStore(database)
    assert store.spend_usd(0.0) == 500.0
    assert len(list(store.iter_records(until_s=1000.0))) == 1000
    graded = store.get("graded")
    assert graded is not None
    assert graded.feedback == (FeedbackRecord(score=1.0),)
    store.close()


def test_closing_writes_what_is_queued(database: Path, make_record: Callable[..., DecisionRecord]) -> None:
    store = SqliteStore(database)
    for number in range(700):
        store.put(make_record(number))
    store.close()
    store = SqliteStore(database)
    assert len(list(store.iter_records())) == 700
    store.close()


def test_a_record_reaches_the_file_on_its_own_within_moments(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    store.put(make_record())
    deadline = time.monotonic() + 5
    with sqlite3.connect(database) as other:
        while other.execute("SELECT count(*) FROM decisions").fetchone() == (0,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    other.close()
    store.close()


def test_putting_does_not_wait_for_a_locked_file_and_loses_nothing(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for number in range(300):
            store.put(make_record(number))
        assert time.monotonic() - began < 0.5
        other.execute("COMMIT")
    other.close()
    store.flush()
    assert len(list(store.iter_records())) == 300
    store.close()


def test_records_beyond_the_bound_are_dropped_counted_and_logged_once(
    database: Path, make_record: Callable[..., DecisionRecord], caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(database, max_pending=10)
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(30):
            store.put(make_record(number))
        assert store.dropped == 20
        other.execute("COMMIT")
    other.close()
    store.close()
    assert [r.getMessage() for r in caplog.records] == [
        "decision records were lost (1 so far): the queue is full"
    ]


def test_a_failing_disk_is_reported_and_the_records_wait_for_it(
    database: Path, make_record: Callable[..., DecisionRecord], caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(database)
    with sqlite3.connect(database) as other:
        other.execute("ALTER TABLE decisions RENAME TO hidden")
    store.put(make_record())
    with pytest.raises(DataError, match="cannot be written"):
        store.flush()
    assert "cannot be written; 1 records wait" in caplog.text
    assert "2+2" not in caplog.text, "the log must not tell what people asked"
    assert store.get("dec_0001") is not None
    other.execute("ALTER TABLE hidden RENAME TO decisions")
    other.close()
    store.close()
    store = SqliteStore(database)
    assert store.get("dec_0001") is not None
    store.close()


def test_a_disk_that_never_recovers_makes_closing_say_what_is_lost(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    with sqlite3.connect(database) as other:
        other.execute("DROP TABLE decisions")
    other.close()
    store.put(make_record())
    with pytest.raises(DataError, match="1 decision records could not be written"):
        store.close()
    assert store.dropped == 1


def test_a_record_that_cannot_be_written_does_not_hold_up_the_others(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    store.put(make_record(1, query_text="\ud800"))
    store.put(make_record(2))
    store.flush()
    assert [record.decision_id for record in store.iter_records()] == ["dec_0002"]
    assert store.dropped == 1
    store.close()


def test_another_process_reads_while_this_one_writes(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    writer, reader = SqliteStore(database), SqliteStore(database)
    for number in range(50):
        writer.put(make_record(number))
    writer.flush()
    assert len(list(reader.iter_records())) == 50
    reader.add_feedback("dec_0001", FeedbackRecord(score=1.0))
    found = writer.get("dec_0001")
    assert found is not None
    assert found.quality == 1.0
    writer.close()
    reader.close()


def test_more_records_than_a_page_are_read_once_each_in_order(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    for number in range(1234):
        store.put(make_record(number, created_at=float(number // 100)))
    ids = [record.decision_id for record in store.iter_records()]
    assert ids == [f"dec_{number:04d}" for number in range(1234)]
    store.close()


def test_the_file_is_private_to_its_owner(database: Path) -> None:
    SqliteStore(database).close()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_hostile_ids_and_texts_are_only_data(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    hostile = "x'; DROP TABLE decisions; --"
    store = SqliteStore(database)
    store.put(make_record(decision_id=hostile, key_id=hostile, query_text=hostile))
    store.add_feedback(hostile, FeedbackRecord(score=1.0, source=hostile, comment=hostile))
    found = store.get(hostile)
    assert found is not None
    assert (found.key_id, found.feedback[0].comment) == (hostile, hostile)
    assert store.spend_usd(0.0, key_id=hostile) == 0.25
    store.close()


def test_the_migrations_lead_to_the_schema_that_a_fresh_file_gets(tmp_path: Path) -> None:
    fresh = open_database(tmp_path / "fresh.db")
    migrated = open_database(tmp_path / "migrated.db")
    with migrated.connect().execution_options(writes=True) as connection, connection.begin():
        METADATA.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
        migrate(connection)
    described = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY name"
    columns = "SELECT m.name, p.* FROM sqlite_master m, pragma_table_info(m.name) p WHERE m.type = 'table' ORDER BY 1, 2"
    indexed = "SELECT m.name, p.* FROM sqlite_master m, pragma_index_info(m.name) p WHERE m.type = 'index' ORDER BY 1, 2"
    for query in (described, columns, indexed, "SELECT * FROM alembic_version"):
        with fresh.connect() as one, migrated.connect() as two:
            rows = one.execute(text(query)).all()
            assert rows
            assert rows == two.execute(text(query)).all()
    fresh.dispose()
    migrated.dispose()


def test_the_newest_revision_is_the_one_the_migrations_end_with() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "thinkroute.store:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS


def test_a_file_of_a_newer_schema_is_refused_and_left_alone(database: Path) -> None:
    SqliteStore(database).close()
    with sqlite3.connect(database) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    before = database.read_bytes()
    with pytest.raises(ConfigError, match=r"schema '9999'.*newer thinkroute"):
        SqliteStore(database)
    assert database.read_bytes() == before


def test_a_database_of_something_else_is_refused_and_left_alone(database: Path) -> None:
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    before = database.read_bytes()
    with pytest.raises(ConfigError, match="not a decision log"):
        SqliteStore(database)
    assert database.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(database: Path) -> None:
    database.write_text("hello, I am a diary " * 100)
    with pytest.raises(ConfigError, match="cannot open the decision log"):
        SqliteStore(database)
    assert database.read_text().startswith("hello")


def test_a_path_that_cannot_be_opened_is_refused_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_folder"):
        SqliteStore(tmp_path / "no_such_folder" / "decisions.db")
    with pytest.raises(ConfigError, match="cannot open"):
        SqliteStore(tmp_path)


def test_two_openers_of_a_fresh_file_both_succeed(database: Path) -> None:
    failures: list[BaseException] = []

    def open_and_close() -> None:
        try:
            SqliteStore(database).close()
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_up_to_date_file_opens_without_alembic(database: Path) -> None:
    SqliteStore(database).close()
    program = "from thinkroute.store.sqlite import SqliteStore; SqliteStore(sys.argv[1]).close()"
    assert "alembic" not in _modules_after(program, str(database))


def test_importing_the_store_imports_no_database() -> None:
    assert "sqlalchemy" not in _modules_after("import thinkroute.store")


def _modules_after(program: str, *arguments: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_closing_while_the_disk_fails_answers_everybody_who_waits(
    database: Path, make_record: Callable[..., DecisionRecord]
) -> None:
    store = SqliteStore(database)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.put(make_record())
    time.sleep(0.2)  # the writer has taken the record and waits for the file
    failures: list[BaseException] = []

    def expect_failure(call: Callable[[], None]) -> None:
        try:
            call()
        except DataError as failure:
            failures.append(failure)

    grade = threading.Thread(
        target=expect_failure, args=(lambda: store.add_feedback("dec_0001", FeedbackRecord(score=1.0)),)
    )
    grade.start()
    time.sleep(0.1)
    close = threading.Thread(target=expect_failure, args=(store.close,))
    close.start()
    time.sleep(0.1)
    other.execute("DROP TABLE decisions")
    other.execute("COMMIT")
    other.close()
    for thread in (grade, close):
        thread.join(10)
        assert not thread.is_alive(), "nobody hangs"
    assert len(failures) == 2
    assert store.dropped == 1
