"""Sample `backup`: a snapshot copied out as qcow2 and tar while nothing stands still."""

import contextlib
import hashlib
from pathlib import Path

from demo import mounts
from examples import files, scene

BEFORE_FILES = 300
SIZE = "256MiB"


def play(directory: Path) -> str:
    """Run the sample; returns what was seen, in words.

    Raises:
        scene.SceneFailed: something that it shows is not so.
    """
    with contextlib.ExitStack() as stack:
        stage = scene.Scene(directory, stack, command_user="root")
        kept = stage.tasks / "backup" / "backups"
        kept.mkdir()
        stage.start(data=SIZE)
        there = scene.file_system(stage.uri("data"), directory / "primary-fs", "ext4")
        writer = files.FileWriter(stack.enter_context(there))
        writer.start()
        stack.callback(writer.stop)
        stage.agent("files", "fsfreeze", str(writer.root))
        files.wait_written([writer], BEFORE_FILES)
        watch = stage.watch()

        run = stage.run_task("backup")

        copied = scene.step_times(run, "copy-out")
        problems = watch.problems(*copied)
        scene.require(not problems, f"while it was copied out: {'; '.join(problems)}")
        meanwhile = [one for one in writer.written if copied[0] < one.ended < copied[1]]
        scene.require(bool(meanwhile), "no file was written while it was copied out")
        snapshot = stage.export(run, "FILESYSTEM")
        original = stage.copy_out(snapshot, "data")
        image = _restore(stage, kept / snapshot / "data.qcow2")
        scene.require(_digest(image) == _digest(original), "the volume of the qcow2 image differs")
        untarred = directory / "untarred"
        untarred.mkdir()
        mounts.run("tar", "-C", str(untarred), "-xf", str(kept / snapshot / "files.tar"))
        with scene.writable(image, directory / "restored", "ext4") as restored:
            compared = files.compare(restored, writer, *scene.sent_between(run))
            same = files.digest(restored) == files.digest(untarred)
            scene.require(same, "the files of the tar differ from those of the image")
    return (
        f"{compared} files as qcow2 and tar, both restored elsewhere, hashes equal;"
        f" {len(meanwhile)} files were written while it was copied out"
    )


def _restore(stage: scene.Scene, qcow2: Path) -> Path:
    """Put the image onto a new volume, as one would after a loss; the bytes of that volume."""
    stage.cli("group", "create", "restored")
    stage.cli("volume", "create", "restored/data", "--size", SIZE)
    uri = stage.sites.primary.endpoints.nbd_uri("groups/restored/volumes/data")
    mounts.run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", str(qcow2), uri)
    image = stage.directory / "restored.raw"
    mounts.run("nbdcopy", uri, str(image))
    return image


def _digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
