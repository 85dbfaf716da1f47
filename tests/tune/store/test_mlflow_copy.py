"""The copy of the head's MLflow database, from which a new head starts."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "mlflow_copy.py"


@pytest.fixture
def copy(tmp_path):
    def run(what, database, **variables):
        environment = {**os.environ, "CGD_MLFLOW_COPIES": f"file://{tmp_path}/bucket/mlflow", **variables}
        done = subprocess.run([sys.executable, SCRIPT, what, database], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def rows(database):
    with sqlite3.connect(database) as connection:
        return connection.execute("SELECT * FROM t").fetchall()


def test_a_new_head_starts_from_the_copy_of_a_database_in_use(copy, tmp_path):
    old, new = tmp_path / "old" / "mlflow.db", tmp_path / "new" / "mlflow.db"
    old.parent.mkdir()
    new.parent.mkdir()
    copy("restore", old)
    writer = sqlite3.connect(old)
    writer.execute("CREATE TABLE t (x)")
    writer.execute("INSERT INTO t VALUES (1)")
    writer.commit()  # still open, and in the write-ahead log alone
    copy("save", old)
    writer.execute("INSERT INTO t VALUES (2)")
    writer.commit()
    copy("save", old)
    writer.close()

    assert "restored" in copy("restore", new)
    assert rows(new) == [(1,), (2,)]
    with sqlite3.connect(new) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_is_there_is_not_replaced(copy, tmp_path):
    database = tmp_path / "mlflow.db"
    copy("restore", database)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (x)")
    copy("save", database)
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    assert copy("restore", database) == ""
    assert rows(database) == [(1,)]


def test_without_a_bucket_nothing_is_copied(copy, tmp_path):
    database = tmp_path / "mlflow.db"
    copy("restore", database, CGD_MLFLOW_COPIES="", CGD_BUCKET="")
    assert copy("save", database, CGD_MLFLOW_COPIES="", CGD_BUCKET="") == ""
    assert not (tmp_path / "bucket").exists()
