"""The mutants. A text that is no longer found, or found twice, is an error of this list."""

from dataclasses import dataclass

WRITER = "tests/crash/test_writer.py"
SPACE = "tests/crash/test_writer_space.py"
BATCHES = "tests/crash/test_writer_batches.py"
THREADS = "tests/unit/group/test_commit_threads.py"
REPLICA = "tests/unit/apply/test_replica.py"
REFUSALS = "tests/unit/apply/test_replica_refusals.py"
APPLY = "tests/crash/test_apply.py"


@dataclass(frozen=True)
class Mutant:
    """A broken promise."""

    name: str
    module: str
    text: str
    replacement: str
    test: str


MUTANTS = (
    Mutant(
        "log sync skipped (D1)",
        "slackwater/group/commit.py",
        "durable = self.log.sync()",
        "durable = self.log.end",
        f"{WRITER}::test_everything_answered_survives_a_crash_at_every_storage_call",
    ),
    Mutant(
        "volumes out of lsn order (D1)",
        "slackwater/group/commit.py",
        "            for _, volume, offset, length, payload in changes:\n"
        "                if volume is None:",
        "            for _, volume, offset, length, payload in reversed(changes):\n"
        "                if volume is None:",
        f"{THREADS}::"
        "test_connections_overwriting_the_same_blocks_leave_the_last_record_in_the_volume",
    ),
    Mutant(
        "volume before log (D1)",
        "slackwater/group/commit.py",
        "            self.log.append([self._build(changes)], control=control)",
        "            self._write_volumes(changes)\n"
        "            self.log.append([self._build(changes)], control=control)",
        f"{BATCHES}::test_volume_never_holds_what_the_log_does_not",
    ),
    Mutant(
        "checkpoint past in_volumes (D2)",
        "slackwater/group/writer.py",
        "point = self._holds.lowest(self.committer.in_volumes)",
        "point = self._holds.lowest(self.log.durable)",
        f"{BATCHES}::test_batch_with_a_checkpoint_in_its_middle_is_a_prefix"
        "_after_a_crash_at_every_call[writethrough-1]",
    ),
    Mutant(
        "checkpoint without a sync of the volumes (D2)",
        "slackwater/group/writer.py",
        "            self._sync_volumes()\n",
        "",
        f"{BATCHES}::test_checkpoint_crashed_at_each_of_its_calls_loses_nothing[writethrough]",
    ),
    Mutant(
        "failed sync of the log retried (D3)",
        "slackwater/log/log.py",
        "            self._file.sync()\n        except OSError as error:\n"
        '            raise self._failstop.fail(self._file.path, "sync", error) from error',
        "            self._file.sync()\n        except OSError:\n            self._file.sync()",
        f"{WRITER}::test_failed_log_sync_is_final_and_leaves_nothing_answered_behind",
    ),
    Mutant(
        "failed sync of a volume retried (D3)",
        "slackwater/group/writer.py",
        '                failed = StorageFailed(str(volume.path), "sync", error.errno or 0)\n'
        "                raise self.committer.fail(str(failed)) from error",
        "                assert error\n                volume.sync()",
        f"{WRITER}::test_failed_volume_sync_keeps_the_checkpoint_and_stops_the_group",
    ),
    Mutant(
        "write admitted while a volume stalls (D4)",
        "slackwater/group/commit.py",
        "if self.stalled is not None and batch.changes and not batch.control:",
        "if False:",
        f"{WRITER}::test_full_volume_keeps_what_was_logged_and_goes_on_when_space_is_back",
    ),
    Mutant(
        "recovery trusts the page cache (D5)",
        "slackwater/log/log.py",
        "            recovery.prove_again(storage, directory, settings, start, found)\n",
        "            pass\n",
        f"{BATCHES}::test_log_sync_that_failed_and_marked_pages_clean_is_mended_by_the_next_start",
    ),
    Mutant(
        "recovered volumes not synced (D5)",
        "slackwater/group/opening.py",
        "                volume.sync()\n",
        "                pass\n",
        f"{BATCHES}::"
        "test_sigkill_then_power_loss_at_every_call_of_the_recovery_loses_nothing_answered",
    ),
    Mutant(
        "pending not consulted by reads (D7)",
        "slackwater/group/writer.py",
        "changes = held.overlapping(volume, offset, len(target)) if len(held) else ()",
        "changes = held.overlapping(volume, offset, 0) if len(held) else ()",
        f"{WRITER}::test_writeback_loses_nothing_answered_to_sigkill_nor_flushed_to_power_loss",
    ),
    Mutant(
        "writeback without a bound (D7)",
        "slackwater/group/commit.py",
        "if not sync and self.pending.held_bytes < PENDING_LIMIT_BYTES:",
        "if not sync:",
        f"{SPACE}::test_writeback_holds_no_more_than_its_bound_in_memory",
    ),
    Mutant(
        "fence not waiting for what is in flight (D8)",
        "slackwater/group/commit.py",
        "while self._in_flight:",
        "while False:",
        f"{THREADS}::test_fence_waits_for_what_is_in_flight",
    ),
    Mutant(
        "gate left open (D8)",
        "slackwater/group/commit.py",
        "            self._gate_closed = True\n",
        "            self._gate_closed = False\n",
        f"{THREADS}::test_nothing_but_the_fencing_thread_gets_through_a_closed_gate",
    ),
    Mutant(
        "link let go of after another wait has made the room (D9)",
        "slackwater/group/writer.py",
        "if self.failure is not None or self.log.has_room(needed):",
        "if self.failure is not None:",
        f"{SPACE}::test_second_waiter_for_room_lets_go_of_no_link_when_the_first_has_made_the_room",
    ),
    Mutant(
        "hold ignored (D11)",
        "slackwater/group/holds.py",
        "return min((point, *(hold.point for hold in self._held)), key=lambda at: at.offset)",
        "return point",
        f"{SPACE}::test_message_whose_row_finds_no_room_is_answered_later_and_never_sent_twice",
    ),
    Mutant(
        "log trimmed past a link's acked position",
        "slackwater/group/writer.py",
        "floor = min(floor, links)",
        "floor = max(floor, links)",
        f"{SPACE}::test_log_is_kept_for_a_link_from_its_acked_position_on",
    ),
    Mutant(
        "trim mark moved after the segments (D14)",
        "slackwater/group/writer.py",
        "            self.marks.trim_offset = floor\n            before = self.log.oldest\n",
        "            before = self.log.oldest\n",
        f"{SPACE}::test_trim_mark_moves_before_any_segment_does",
    ),
    Mutant(
        "removed volume's file gone before the checkpoint (D28)",
        "slackwater/group/writer.py",
        "if offset <= self.checkpoint_point.offset:",
        "if True:",
        f"{SPACE}::test_removed_volume_goes_with_the_checkpoint_that_passes_its_removal",
    ),
    Mutant(
        "applied past the message (C6)",
        "slackwater/apply/applier.py",
        "        if self.stopped is not None:\n            return False\n",
        "",
        f"{REPLICA}::test_frozen_replica_receives_and_stands_exactly_at_the_message",
    ),
    Mutant(
        "acked before durable",
        "slackwater/apply/receiving.py",
        "durable = self.log.sync().position",
        "durable = self.log.end.position",
        f"{REFUSALS}::test_failed_log_sync_acks_nothing",
    ),
    Mutant(
        "preserve skipped (D23)",
        "slackwater/apply/applier.py",
        "feed.preserve([(view.volume, view.offset, view.length) for view in views])",
        "pass",
        f"{REPLICA}::test_snapshot_stays_while_the_replica_goes_on",
    ),
    Mutant(
        "replay feeding a later snapshot (D22)",
        "slackwater/apply/applier.py",
        "[RecordView]) -> bool:\n        feed = self._catalogue.feed(self.applied.offset)",
        "[RecordView]) -> bool:\n        feed = self._catalogue.feed(1 << 62)",
        f"{APPLY}::test_replica_keeps_volumes_and_snapshots_through_a_crash_at_every_call",
    ),
)
