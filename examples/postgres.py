"""Sample `postgres`: a server under pgbench that is never paused, a second one on clones."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from examples import scene
from examples.database import Committer, Evidence, Server, check_commits

BEFORE_COMMITS = 200
VOLUMES = {"data": "ext4", "wal": "xfs"}


def play(directory: Path) -> str:
    """Run the sample; returns what was seen, in words.

    Raises:
        scene.SceneFailed: something that it shows is not so.
    """
    directory.chmod(0o711)  # the server is another user
    with contextlib.ExitStack() as stack:
        stage = scene.Scene(directory, stack)
        stage.start(**dict.fromkeys(VOLUMES, "512MiB"))
        root = {
            volume: stack.enter_context(
                scene.file_system(stage.uri(volume), directory / f"primary-{volume}", kind)
            )
            for volume, kind in VOLUMES.items()
        }
        original = Server(root["data"] / "pg", root["wal"] / "pg", directory / "run-original")
        original.make()
        stack.enter_context(original)
        scene.require(original.pgbench("-i", "-q", "-s", "2").wait(120) == 0, "pgbench -i failed")
        load = original.pgbench("-c", "4", "-T", "600")
        stack.callback(scene.stop, load)
        committer = Committer(original.dsn)
        committer.start()
        stack.callback(committer.stop)
        stage.agent("erp-db", "postgres", original.dsn)
        committer.wait(BEFORE_COMMITS)

        run = stage.run_task("postgres")

        committer.wait(BEFORE_COMMITS)
        scene.require(load.poll() is None, "pgbench has ended")
        snapshot = stage.export(run, "APPLICATION")
        with _clones(stage, snapshot) as copy:
            evidence = Evidence.of(run.judgement)
            evidence.check(copy)
            copy.adopt()
            with copy:
                commits = check_commits(copy.dsn, committer.commits, *scene.sent_between(run))
                copy.check()
    return (
        f"{commits} commits on the clones and none too many, pg_amcheck clean, backup from"
        f" {evidence.start_lsn}, held for {scene.window(run)}; application, confirmed"
    )


@contextlib.contextmanager
def _clones(stage: scene.Scene, snapshot: str) -> Iterator[Server]:
    """A second server on writable clones of both volumes, not started yet."""
    with contextlib.ExitStack() as stack:
        clone, root = stack.enter_context(stage.clone(snapshot)), {}
        for volume, kind in VOLUMES.items():
            uri = stage.clone_uri(clone, volume)
            there = scene.cloned(uri, stage.directory / f"clone-{volume}", kind)
            root[volume] = stack.enter_context(there)
        yield Server(root["data"] / "pg", root["wal"] / "pg", stage.directory / "run-copy")
