"""Sample `filesystem`: an ext4 and an XFS, frozen by the agent for milliseconds, under writers."""

import contextlib
from pathlib import Path

from examples import files, scene

BEFORE_FILES = 300
KINDS = ("ext4", "xfs")


def play(directory: Path) -> str:
    """Run the sample; returns what was seen, in words.

    Raises:
        scene.SceneFailed: something that it shows is not so.
    """
    with contextlib.ExitStack() as stack:
        stage = scene.Scene(directory, stack)
        stage.start(**dict.fromkeys(KINDS, "512MiB"))
        writers = {}
        for kind in KINDS:
            there = scene.file_system(stage.uri(kind), directory / f"primary-{kind}", kind)
            writers[kind] = files.FileWriter(stack.enter_context(there))
            writers[kind].start()
            stack.callback(writers[kind].stop)
        stage.agent("files", "fsfreeze", *(str(writer.root) for writer in writers.values()))
        files.wait_written(writers.values(), BEFORE_FILES)

        run = stage.run_task("filesystem")

        files.wait_written(writers.values(), BEFORE_FILES)
        snapshot = stage.export(run, "FILESYSTEM")
        compared = 0
        for kind, writer in writers.items():
            uri = stage.snapshot_uri(snapshot, kind)
            with scene.read_only(uri, directory / f"copy-{kind}", kind) as copy:
                compared += files.compare(copy, writer, *scene.sent_between(run))
    return (
        f"{compared} files on {' and '.join(KINDS)} compared, fsck clean,"
        f" held for {scene.window(run)}; filesystem, confirmed"
    )
