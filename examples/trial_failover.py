"""Sample `trial-failover`: the application started on a clone while replication runs on."""

import contextlib
import sqlite3
import threading
import time
from pathlib import Path

from examples import scene

BEFORE_SALES = 200
TRIAL_SALES = 100


class Shop(threading.Thread):
    """An application: it books sales in SQLite, and holds still while a file says so."""

    def __init__(self, database: Path, held: Path) -> None:
        """Open or make the database; `held` is how the pair of programs tells it."""
        super().__init__(name="shop", daemon=True)
        self.sales: list[tuple[int, float, float]] = []
        self.problem: Exception | None = None
        self._database, self._held = database, held
        self._stopping = threading.Event()

    def run(self) -> None:
        """Book until told to stop."""
        try:
            with contextlib.closing(sqlite3.connect(self._database, timeout=30)) as connection:
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS sales (number INTEGER PRIMARY KEY, ended REAL)"
                )
                while not self._stopping.wait(0.001):
                    self._hold()
                    self._book(connection)
        except (sqlite3.Error, OSError) as error:
            self.problem = error

    def _hold(self) -> None:
        """Between two sales: say that it holds still, for as long as it has to."""
        while self._held.exists() and not self._stopping.is_set():
            self._held.with_suffix(".answer").touch()
            time.sleep(0.001)
        self._held.with_suffix(".answer").unlink(missing_ok=True)

    def _book(self, connection: sqlite3.Connection) -> None:
        began = time.time()
        with connection:
            cursor = connection.execute("INSERT INTO sales (ended) VALUES (?)", (began,))
        assert cursor.lastrowid is not None
        self.sales.append((cursor.lastrowid, began, time.time()))

    def stop(self) -> None:
        """Stop, and raise what ended it early."""
        self._stopping.set()
        self.join()
        if self.problem is not None:
            raise self.problem


def play(directory: Path) -> str:
    """Run the sample; returns what was seen, in words.

    Raises:
        scene.SceneFailed: something that it shows is not so.
    """
    with contextlib.ExitStack() as stack:
        stage = scene.Scene(directory, stack)
        stage.start(data="256MiB")
        root = stack.enter_context(
            scene.file_system(stage.uri("data"), directory / "primary-fs", "ext4")
        )
        pair = stage.install("shop")
        shop = Shop(root / "shop.db", pair / "held")
        shop.start()
        stack.callback(shop.stop)
        stage.agent("shop", "command", str(pair / "hold"), str(pair / "go-on"))
        scene.wait("sales are booked", lambda: len(shop.sales) > BEFORE_SALES)
        watch, began = stage.watch(), time.time()

        run = stage.run_task("trial-failover")
        tried, found = _trial(stage, stage.export(run, "APPLICATION"))

        problems = watch.problems(began, time.time())
        scene.require(not problems, f"during the trial: {'; '.join(problems)}")
        count = len(shop.sales)
        scene.wait("the shop books on", lambda: len(shop.sales) > count + BEFORE_SALES)
        sent, returned = scene.sent_between(run)
        missing = {number for number, _, over in shop.sales if over < sent} - found
        late = {number for number, start, _ in shop.sales if start > returned} & found
        scene.require(not missing, f"{len(missing)} sales are missing in the trial")
        scene.require(not late, f"{len(late)} sales are too new in the trial")
    return (
        f"{len(found)} sales in the clone, {tried} more booked on trial and discarded, while"
        f" replication ran on; held for {scene.window(run)}; application, confirmed"
    )


def _trial(stage: scene.Scene, snapshot: str) -> tuple[int, set[int]]:
    """Start the application on a clone; how many sales it books, and which it found there."""
    with (
        stage.clone(snapshot) as clone,
        scene.cloned(stage.clone_uri(clone, "data"), stage.directory / "trial", "ext4") as root,
    ):
        database = root / "shop.db"
        with contextlib.closing(sqlite3.connect(database)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            scene.require(verdict == "ok", f"integrity_check says {verdict}")
            found = {int(row[0]) for row in connection.execute("SELECT number FROM sales")}
        trial = Shop(database, stage.directory / "never-held")
        trial.start()
        scene.wait("the trial books sales", lambda: len(trial.sales) >= TRIAL_SALES)
        trial.stop()
    return len(trial.sales), found
