"""Databases: a transaction is whole or nothing, on both sides of the seam."""

import sqlite3
import threading

import pytest

from slackwater.errors import DataCorrupt
from slackwater.storage.seam import Database
from tests.contract.conftest import Place


@pytest.fixture
def database(place: Place) -> Database:
    opened = place.storage.open_database(place.path / "x.db")
    with opened.transaction() as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    return opened


def add(database: Database, *numbers: int) -> None:
    with database.transaction() as connection:
        for number in numbers:
            connection.execute("INSERT INTO t VALUES (?, ?)", (number, str(number)))


def numbers(database: Database) -> list[int]:
    return [row["a"] for row in database.query("SELECT a FROM t ORDER BY a")]


def test_rows_are_found_by_name_and_with_parameters(database: Database) -> None:
    add(database, 1, 2)
    (row,) = database.query("SELECT * FROM t WHERE a = ?", (2,))
    assert (row["a"], row["b"], row[1]) == (2, "2", "2")
    database.close()


def test_what_was_committed_is_there_after_opening_again(place: Place, database: Database) -> None:
    add(database, 1)
    database.close()
    database.close()
    again = place.storage.open_database(place.path / "x.db")
    assert numbers(again) == [1]
    again.close()


def test_exception_in_the_body_leaves_nothing_of_it(database: Database) -> None:
    add(database, 1)
    with pytest.raises(KeyError), database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2, '')")
        raise KeyError
    add(database, 3)
    assert numbers(database) == [1, 3]
    database.close()


def test_constraint_that_fails_leaves_nothing_and_the_next_goes_on(database: Database) -> None:
    add(database, 1)
    with pytest.raises(sqlite3.IntegrityError):
        add(database, 2, 1)
    add(database, 5)
    assert numbers(database) == [1, 5]
    database.close()


def test_mistake_in_the_sql_is_not_taken_for_a_failed_disk(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError), database.transaction() as connection:
        connection.execute("INSERT INTO absent VALUES (1)")
    with pytest.raises(sqlite3.OperationalError):
        database.query("SELECT * FROM absent")
    add(database, 1)
    database.close()


def test_transactions_of_two_threads_do_not_mix(database: Database) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 20):
            with database.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (?, '')", (2 * number,))
                connection.execute("INSERT INTO t VALUES (?, '')", (2 * number + 1,))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(numbers(database)) == 120
    database.close()


def test_transactions_do_not_nest(database: Database) -> None:
    with pytest.raises(AssertionError), database.transaction(), database.transaction():
        pass
    add(database, 1)
    assert numbers(database) == [1]
    database.close()


def test_file_that_is_no_database_is_corrupt_by_name(place: Place) -> None:
    file = place.storage.open(place.path / "y.db", create=True)
    file.write([b"no database, and long enough to look like one " * 100], 0)
    file.close()
    with pytest.raises(DataCorrupt, match=r"y\.db"):
        place.storage.open_database(place.path / "y.db").query("SELECT * FROM t")


def test_database_in_a_missing_directory_is_an_os_error(place: Place) -> None:
    with pytest.raises(OSError):
        place.storage.open_database(place.path / "absent" / "x.db")
