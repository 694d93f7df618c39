"""The mutants. A text that is no longer found, or found twice, is an error of this list."""

from dataclasses import dataclass

WRITER = "tests/crash/test_writer.py"
SPACE = "tests/crash/test_writer_space.py"
BATCHES = "tests/crash/test_writer_batches.py"
THREADS = "tests/unit/group/test_commit_threads.py"
REPLICA = "tests/unit/apply/test_replica.py"
REFUSALS = "tests/unit/apply/test_replica_refusals.py"
APPLY = "tests/crash/test_apply.py"
STORAGE = "tests/unit/apply/test_replica_storage.py"
STARTS = "tests/unit/apply/test_last_start.py"
OPENING = "tests/crash/test_group_opening.py"
RECOVERY = "tests/unit/log/test_log_recovery.py"
DIFFERENCES = "tests/unit/apply/test_differences.py"
OVERLAY = "tests/unit/snapshots/test_overlay.py"
SENDER = "tests/unit/link/test_sender.py"
WINDOW = "tests/unit/link/test_window.py"
SCENARIOS = "tests/scenarios/test_link_scenarios.py"
DELIVERY = "tests/unit/ibc/test_delivery.py"
LEASE = "tests/unit/ibc/test_lease.py"
REGRECV = "tests/unit/cli/test_regrecv.py"
GRADES = "tests/unit/services/secondary/test_grades.py"
REPLICATE = "tests/unit/services/secondary/test_replicate.py"
ROUNDS = "tests/unit/ibc/test_quiesce.py"
QUIESCE = "tests/unit/services/primary/test_quiesce.py"
QUIESCE_FAULTS = "tests/unit/services/primary/test_quiesce_faults.py"
OUTCOMES = "tests/crash/test_outcomes.py"
KEEPER = "tests/unit/agent/test_keeper.py"
HOLDING = "tests/unit/agent/test_holding.py"
COMMAND = "tests/unit/agent/test_command.py"
DEATHS = "tests/e2e/test_agent_deaths.py"
FILE_SYSTEMS = "tests/e2e/test_agent_filesystems.py"
POSTGRES = "tests/e2e/test_agent_postgres.py"
NBD_SERVER = "tests/e2e/test_nbd_server.py"
SIMULATION = "tests/simulation/test_simulation.py"


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
        "difference that passes over what came between two snapshots (I26)",
        "slackwater/snapshots/differences.py",
        "for entry in chain[begin:end] if",
        "for entry in chain[begin : min(begin + 1, end)] if",
        DIFFERENCES,
    ),
    Mutant(
        "place found that the log has let go of (D13)",
        "services/primary/places.py",
        "found.offset < writer.marks.trim_offset",
        "found.offset < 0",
        "tests/unit/services/primary/test_links.py"
        "::test_a_position_before_what_is_kept_for_links_is_not_found_though_its_segment_is_there",
    ),
    Mutant(
        "withdrawn export served to a client that was being let in (I7)",
        "slackwater/nbd/connection.py",
        "        self.claim(name)\n",
        "",
        f"{NBD_SERVER}::TestDisconnect::test_client_that_is_being_let_in_is_found",
    ),
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
    Mutant(
        "evidence of a sync ignored, silent cut (D6)",
        "slackwater/log/recovery.py",
        "        if proof:\n            broken, broken_at",
        "        if proof and not proof:\n            broken, broken_at",
        f"{RECOVERY}::"
        "test_bit_flip_in_the_last_segment_is_corrupt_where_later_records_claim_a_sync",
    ),
    Mutant(
        "floor ignored, silent cut of what was acked (D6)",
        "slackwater/log/recovery.py",
        "elif position.lsn < self._floor_lsn:",
        "elif False:",
        f"{RECOVERY}::test_break_at_or_below_the_floor_is_corrupt",
    ),
    Mutant(
        "group's name shown before it is durable (D5)",
        "slackwater/group/directory.py",
        "            storage.sync_directory(directory.groups_path)\n"
        "            directory._clean_up()",
        "            directory._clean_up()",
        f"{OPENING}::test_no_group_is_half_made_by_sigkill_and_then_power_loss_at_any_call",
    ),
    Mutant(
        "Start without its row after a crash (D16)",
        "slackwater/group/opening.py",
        "            self._database.put_start(view.position)\n",
        "            pass\n",
        f"{OPENING}::test_every_start_is_remembered_after_a_crash_at_every_call",
    ),
    Mutant(
        "Start trimmed from the Secondary's log without its row (D16)",
        "slackwater/apply/controls.py",
        "self._database.put_start(point.position)  # the log will not keep it (D16)",
        "pass",
        f"{STARTS}::test_start_that_the_log_holds_no_more_has_its_row",
    ),
    Mutant(
        "Start that is not applied forgotten by a restart (D16)",
        "slackwater/apply/opening.py",
        "recovery.last_start or database.newest_start(",
        "database.newest_start(",
        f"{STARTS}::test_start_that_is_not_applied_is_found_in_the_log",
    ),
    Mutant(
        "another Start than the Primary's overlooked (D16)",
        "slackwater/link/placing.py",
        "return from_wire(welcome.last_start) != start",
        "return False",
        f"{SCENARIOS}::test_transcript_is_as_recorded[rolled_back_and_trimmed]",
    ),
    Mutant(
        "Secondary ahead taken for one behind (D16)",
        "slackwater/link/placing.py",
        "        elif self._is_ahead(durable):",
        "        elif False:",
        f"{SENDER}::TestWelcome::test_below_or_beside_what_was_acked_is_diverged_d16",
    ),
    Mutant(
        "held lsn with another chain synchronised over (D16)",
        "slackwater/link/placing.py",
        "        elif request.position.lsn >= oldest_lsn:",
        "        elif False:",
        f"{SENDER}::TestWelcome::test_held_lsn_with_another_chain_is_diverged",
    ),
    Mutant(
        "window ignored",
        "slackwater/link/window.py",
        "if self._bytes >= self._window_bytes:",
        "if False:",
        f"{WINDOW}::test_small_slices_are_limited_in_number_large_ones_in_bytes",
    ),
    Mutant(
        "read past the durable mark (D13)",
        "slackwater/link/records.py",
        "act.ReadLog(window.sent, self.durable_offset, link.settings.slice_bytes)",
        "act.ReadLog(window.sent, 1 << 62, link.settings.slice_bytes)",
        f"{SENDER}::TestRecords::test_only_durable_bytes_are_asked_for_d13",
    ),
    Mutant(
        "link let go of in its sync resumed without the log held (D26)",
        "slackwater/link/sync.py",
        "            if self._link.dirty:\n                self._link.dirty = False",
        "            if False:\n                self._link.dirty = False",
        f"{SENDER}::TestSync::test_resumed_sync_on_a_dirty_link_holds_the_log_again",
    ),
    Mutant(
        "verdict confirmed before it is durable (D17)",
        "slackwater/link/sender.py",
        "            self.emit(act.VerdictReceived(response.verdict))",
        "            self.emit(act.VerdictReceived(response.verdict))\n"
        "            self.verdict_stored(response.verdict.sequence)",
        f"{SENDER}::TestVerdicts::test_verdict_is_confirmed_only_when_durable_d17",
    ),
    Mutant(
        "verdicts not repeated (D17)",
        "services/secondary/replication.py",
        "if row.sequence > reported:",
        "if row.sequence > reported and not group.replica.confirm_verdicts(row.sequence):",
        f"{REPLICATE}::test_verdicts_are_repeated_after_welcome_until_confirmed",
    ),
    Mutant(
        "region read before the volumes hold what was sent (D25)",
        "slackwater/link/sync.py",
        "if self._link.records.in_volumes_offset >= sent.offset:",
        "if True:",
        f"{SENDER}::TestSync::test_regions_wait_until_the_volumes_hold_what_was_sent_d25",
    ),
    Mutant(
        "record sent before SyncStart was carried out (D25)",
        "slackwater/link/sync.py",
        "return self._reading is not None or (self.window is not None and not self._confirmed)",
        "return self._reading is not None",
        f"{SENDER}::TestSync::test_nothing_follows_sync_start_until_it_is_carried_out",
    ),
    Mutant(
        "region acked before the checkpoint (D25)",
        "services/secondary/group.py",
        "sequence = replica.checkpointer.durable_progress.sequence",
        "sequence = replica.regions.applied.sequence",
        f"{REPLICATE}::test_region_is_acked_only_with_the_checkpoint_at_its_place",
    ),
    Mutant(
        "log trimmed to what is applied, not to the checkpoint (D20)",
        "slackwater/apply/checkpoint.py",
        "self._log().trim(self.point.offset)",
        "self._log().trim(self._applier.applied.offset)",
        f"{STORAGE}::test_checkpoint_frees_no_log_of_what_was_applied_while_it_synced",
    ),
    Mutant(
        "log trimmed to what is applied, as the simulation sees it (D20)",
        "slackwater/apply/checkpoint.py",
        "self._log().trim(self.point.offset)",
        "self._log().trim(self._applier.applied.offset)",
        f"{SIMULATION}::test_a_group_keeps_its_promises[190]",
    ),
    Mutant(
        "wrapped log full after a clean stop",
        "slackwater/apply/opening.py",
        "    log.trim(state.checkpoint.offset)\n",
        "",
        f"{STORAGE}::test_wrapped_log_has_the_room_after_a_clean_stop_that_it_had_before",
    ),
    Mutant(
        "map of a snapshot taken without its checksum (D23)",
        "slackwater/snapshots/chunkmap.py",
        "overlay_bytes, found._crc(pages_end)",
        "overlay_bytes, crc",
        f"{OVERLAY}::test_map_that_rotted_is_made_anew_from_the_overlay",
    ),
    Mutant(
        "chunk past the synced mark counted without its checksum (D23)",
        "slackwater/snapshots/rebuild.py",
        "if crc32c(memoryview(raw)[HEADER_BYTES:]) != item.data_crc or (\n"
        "                len(raw) != item.next_offset - item.offset\n"
        "            ):",
        "if len(raw) != item.next_offset - item.offset:",
        "tests/crash/test_overlay.py::test_overlay_shows_the_snapshot_after_a_crash_at_every_call",
    ),
    Mutant(
        "message handed over while another stands (C10)",
        "slackwater/ibc/delivery.py",
        '        assert self.standing is None, "messages are delivered one at a time (C10)"\n',
        "",
        f"{DELIVERY}::TestFreeze::test_second_message_is_reached_only_after_the_first_c10",
    ),
    Mutant(
        "inbox emptied from its newest end (C10)",
        "slackwater/ibc/inbox.py",
        "for message in self._messages:\n            if message.application == application:\n"
        "                self._messages.remove",
        "for message in reversed(self._messages):\n"
        "            if message.application == application:\n"
        "                self._messages.remove",
        f"{DELIVERY}::TestNotify::test_inbox_is_taken_in_order_of_the_messages_c10",
    ),
    Mutant(
        "handed over before the volumes are synced (D24)",
        "slackwater/ibc/receivers.py",
        "        if standing.phase is Phase.AWAITING:\n            standing.delivered = True",
        "        if standing.phase in (Phase.AWAITING, Phase.PREPARING):\n"
        "            standing.delivered = True",
        f"{DELIVERY}::TestFreeze::test_receive_that_comes_while_the_volumes_are_synced_waits_d24",
    ),
    Mutant(
        "deliver timer never ends (C11)",
        "slackwater/ibc/delivery.py",
        "        elif standing.message.application in self.applications:\n"
        "            self._enter(Phase.AWAITING, "
        "standing.message.deliver_timeout_seconds or None, now)\n"
        "        else:\n            self._enter(Phase.UNREG",
        "        elif standing.message.application in self.applications:\n"
        "            self._enter(Phase.AWAITING, None, now)\n"
        "        else:\n            self._enter(Phase.UNREG",
        f"{DELIVERY}::TestTimeouts::test_untaken_message_expires_after_its_deliver_timeout_c11",
    ),
    Mutant(
        "freeze timer never ends (C12)",
        "slackwater/ibc/messages.py",
        "        return self.freeze_timeout_seconds or None\n",
        "        return None\n",
        f"{DELIVERY}::TestTimeouts::test_freeze_times_out_counted_from_delivery_c12",
    ),
    Mutant(
        "lease never lost (C13)",
        "slackwater/ibc/receivers.py",
        "return standing.leased and now",
        "return False and now",
        f"{LEASE}::TestGrace::test_silence_for_the_grace_loses_the_lease_c13",
    ),
    Mutant(
        "freeze timeout ends a living lease (C13)",
        "slackwater/ibc/messages.py",
        "        if leased and not self.freeze_timeout_chosen:\n            return None\n",
        "",
        f"{LEASE}::TestGrace::test_lease_outlives_the_default_freeze_timeout_c13",
    ),
    Mutant(
        "chosen freeze timeout does not end a lease (C12)",
        "slackwater/ibc/messages.py",
        "if leased and not self.freeze_timeout_chosen:",
        "if leased:",
        f"{LEASE}::TestGrace::test_timeout_the_sender_chose_ends_even_a_living_lease_c12",
    ),
    Mutant(
        "lease forgotten in a restart (C15)",
        "slackwater/ibc/delivery.py",
        "            leased=standing.leased,\n",
        "",
        f"{LEASE}::TestRestart::test_lease_is_in_the_timers_and_its_grace_begins_anew_c15",
    ),
    Mutant(
        "another holder takes a living lease (C13)",
        "slackwater/ibc/receivers.py",
        "if standing.stream is None or receiver.holder == standing.holder:",
        "if standing.stream is None or receiver.holder:",
        f"{LEASE}::TestComingBack::test_another_holder_is_refused_while_the_lease_lives",
    ),
    Mutant(
        "unary receive takes a leased message (C13)",
        "slackwater/ibc/receivers.py",
        "            return receiver.is_lease and standing.stream is None and same_holder\n",
        "            return standing.stream is None and same_holder\n",
        f"{LEASE}::TestUnaryReceiversAndLeases::test_unary_receive_does_not_take_a_leased_message",
    ),
    Mutant(
        "outcome raises what was not quiesced (C20)",
        "slackwater/snapshots/marks.py",
        '            and row.evidence.get("quiesced")\n',
        "",
        f"{GRADES}::test_outcome_of_a_message_without_a_quiesce_raises_nothing",
    ),
    Mutant(
        "later outcome replaces the first (C17)",
        "slackwater/snapshots/marks.py",
        '            and "outcome" not in row.evidence\n',
        "",
        f"{GRADES}::test_outcome_grades_the_snapshot_durably_and_shows_why_c17",
    ),
    Mutant(
        "refresh in two steps",
        "slackwater/snapshots/making.py",
        "                self._database.replace_snapshot(going(replaces), row)",
        "                self._database.update_snapshot(going(replaces))\n"
        "                self._database.update_snapshot(row)",
        "tests/crash/test_apply.py::"
        "test_refreshed_snapshot_is_the_old_or_the_new_one_through_a_crash_at_every_call",
    ),
    Mutant(
        "refresh under somebody's feet",
        "slackwater/apply/replica_snapshots.py",
        "            self.check_free(old)\n            self._check_has",
        "            self.catalogue.get(name)\n            self._check_has",
        "tests/unit/apply/test_replica_refusals.py::"
        "test_snapshot_that_somebody_relies_on_is_not_refreshed",
    ),
    Mutant(
        "held snapshot deleted",
        "slackwater/apply/replica_snapshots.py",
        "        if row.held:\n",
        "        if False:\n",
        f"{GRADES}::test_held_snapshot_cannot_be_deleted_until_it_is_released",
    ),
    Mutant(
        "regrecv leaves the replica frozen after the command",
        "slackwater/cli/commands/ibc/shift.py",
        "                if self.frozen and self.thawed is None:\n",
        "                if False:\n",
        f"{REGRECV}::test_exit_status_of_the_command_is_ours_and_the_replica_goes_on",
    ),
    Mutant(
        "lost lease taken for success (C13)",
        "slackwater/cli/commands/ibc/shift.py",
        'if state and state != "UNFROZEN":',
        "if False:",
        f"{REGRECV}::test_freeze_that_ends_under_the_command_is_loud",
    ),
    Mutant(
        "holder does not come back under its message (C13)",
        "slackwater/cli/hold.py",
        "            self._opening.message = message.name\n",
        "",
        f"{REGRECV}::test_broken_stream_is_taken_up_again_under_the_message",
    ),
    Mutant(
        "grace runs before the service can be reached (C15)",
        "slackwater/ibc/receivers.py",
        "        self._paused_at = now if can_hear else math.inf\n",
        "        self._paused_at = now\n",
        f"{LEASE}::TestRestart::test_grace_begins_when_the_service_can_hear_again",
    ),
    Mutant(
        "snapshot at a message taken again in replay (C14)",
        "slackwater/apply/replica_snapshots.py",
        "if row.message_id == message.message_id and row.point == point:",
        "if row.point != point:",
        f"{APPLY}::test_replica_keeps_messages_through_a_crash_at_every_call",
    ),
    Mutant(
        "unfreeze of a wrong id ends the freeze (C12)",
        "slackwater/ibc/delivery.py",
        "if standing is None or standing.message.message_id != message_id:",
        "if standing is None:",
        f"{DELIVERY}::TestUnfreezeRefused::test_of_another_message",
    ),
    Mutant(
        "message without an Outcome not revoked (C17)",
        "slackwater/group/opening.py",
        "revoked = revoke_unjudged(writer)",
        "revoked = 0",
        f"{OUTCOMES}::test_each_quiesced_message_has_one_outcome_after_a_crash_at_every_call",
    ),
    Mutant(
        "Outcome forgotten by replay and judged again (C17)",
        "slackwater/group/opening.py",
        "self._database.put_outcome_record(outcome, view.lsn)",
        "pass",
        f"{OUTCOMES}::test_each_quiesced_message_has_one_outcome_after_a_crash_at_every_call",
    ),
    Mutant(
        "agent believed past its max_hold (C17)",
        "slackwater/ibc/quiesce.py",
        "elif now - hold.answered_at > hold.max_hold_seconds:",
        "elif False:",
        f"{ROUNDS}::TestJudgement::test_our_own_clock_decides_whether_max_hold_was_kept",
    ),
    Mutant(
        "quiesce program left to outlive its agent",
        "slackwater/agent/kinds/command.py",
        "        end_unfinished(self._quiesce, HOLD_VARIABLE, self._hold_id)\n",
        "",
        "tests/e2e/test_agent_quiesce.py::"
        "test_quiesce_that_still_runs_does_not_outlive_its_agent[kill_agent]",
    ),
    Mutant(
        "agent that thawed by itself believed (C17)",
        "slackwater/ibc/quiesce.py",
        "elif not self.round.is_resuming:",
        "elif False:",
        f"{ROUNDS}::TestHeld::test_thaw_of_its_own_breaks_the_hold",
    ),
    Mutant(
        "second answer makes the verdict better (C17)",
        "slackwater/ibc/quiesce.py",
        "        if hold.over_at is not None:\n            return",
        "        if False:\n            return",
        f"{ROUNDS}::TestResuming::test_it_is_waited_for_until_max_hold_and_grace",
    ),
    Mutant(
        "grade without a fence (C20)",
        "slackwater/ibc/judging.py",
        "    if not is_fenced:\n",
        "    if False:\n",
        f"{QUIESCE}::TestConfirmed::test_no_fence_no_grade",
    ),
    Mutant(
        "message placed though a hold broke",
        "slackwater/group/changes.py",
        "            with writer.fenced(fence_timeout):\n                check()\n",
        "            with writer.fenced(fence_timeout):\n",
        f"{QUIESCE}::TestNothingPlaced",
    ),
    Mutant(
        "agents held on when nothing was placed",
        "services/primary/quiesce.py",
        '            self._resume(round_, "")\n',
        "",
        f"{QUIESCE}::TestNothingPlaced::test_failed_send_lets_the_agents_go_on",
    ),
    Mutant(
        "round broken off when its caller hangs up",
        "services/primary/quiesce.py",
        "return await asyncio.shield(task)",
        "return await task",
        f"{QUIESCE}::TestConfirmed::test_caller_that_hangs_up_leaves_nobody_held",
    ),
    Mutant(
        "Outcome without room forgotten (C17)",
        "services/primary/messages.py",
        "                append_outcome(self._group.writer, outcome)\n"
        "                del self._owed[0]\n",
        "                del self._owed[0]\n"
        "                append_outcome(self._group.writer, outcome)\n",
        f"{QUIESCE_FAULTS}::test_outcome_that_finds_no_room_follows_once_there_is_some",
    ),
    Mutant(
        "pending message pruned (C16)",
        "slackwater/group/database_messages.py",
        "time_ns < ? AND lsn <= ? AND state != ?",
        "time_ns < ? AND lsn <= ? AND ? != '?'",
        "tests/unit/group/test_database_messages.py::TestMessages",
    ),
    Mutant(
        "message forgotten that replay brings back (D11)",
        "slackwater/group/database_messages.py",
        '        " AND lsn <= (SELECT checkpoint_lsn FROM log)"\n',
        "",
        "tests/unit/group/test_database_messages.py::TestMessages"
        "::test_what_replay_would_bring_back_is_kept",
    ),
    Mutant(
        "agent: hold past its time called unbroken",
        "slackwater/agent/keeper.py",
        "if self.deadline is not None and now >= self.deadline:",
        "if False:",
        f"{KEEPER}::test_keeper_whose_clock_was_looked_at_late_does_not_call_the_hold_unbroken",
    ),
    Mutant(
        "agent: broken hold called unbroken",
        "slackwater/agent/keeper.py",
        "last = Resumed(self._current().hold_id, not self.broken, answer)",
        "last = Resumed(self._current().hold_id, unbroken, answer)",
        f"{KEEPER}::test_keeper_resumes_by_itself_at_max_hold_and_says_so",
    ),
    Mutant(
        "agent: hold kept past the end of the session",
        "slackwater/agent/keeper.py",
        "self._can_tell = False\n        return self.break_hold(why)",
        "self._can_tell = False\n        return []",
        f"{KEEPER}::test_keeper_resumes_when_the_session_ends_and_tells_nobody",
    ),
    Mutant(
        "agent: failed quiesce not undone",
        "slackwater/agent/keeper.py",
        "return [*told, *self._begin_resume(self.broken or problem)]",
        "return told",
        f"{KEEPER}::test_keeper_undoes_a_quiesce_that_failed",
    ),
    Mutant(
        "agent: failed resume not tried again",
        "slackwater/agent/keeper.py",
        "self.deadline = now + self._retry_seconds",
        "self.deadline = None",
        f"{KEEPER}::test_keeper_tries_a_failed_resume_again_until_it_succeeds",
    ),
    Mutant(
        "agent: hold not recorded",
        "slackwater/agent/holding.py",
        "self._ledger.write(entry)",
        "pass",
        f"{HOLDING}::test_hold_is_recorded_and_guarded_first_and_the_guard_outlives_the_resume",
    ),
    Mutant(
        "agent: guard's resume overlooked",
        "slackwater/agent/holding.py",
        "if entry is not None and entry.resumed_by:",
        "if False:",
        f"{HOLDING}::test_hold_that_the_guard_ended_is_not_resumed_twice_nor_called_unbroken",
    ),
    Mutant(
        "agent: record struck before it is undone",
        "slackwater/agent/holding.py",
        "done = undo.prepare(entry.undo).run()",
        "self._ledger.clear()\n                done = undo.prepare(entry.undo).run()",
        f"{HOLDING}::test_recovery_keeps_a_record_that_it_cannot_undo",
    ),
    Mutant(
        "agent: guard does not act when its agent is gone",
        "slackwater/agent/guard.py",
        'return "the agent is gone"',
        'return ""',
        f"{DEATHS}::test_killed_agent_leaves_the_resume_to_its_guard",
    ),
    Mutant(
        "agent: guard has no deadline",
        "slackwater/agent/guard.py",
        'return "the agent did not resume in time"',
        'return ""',
        f"{DEATHS}::test_hung_agent_is_overtaken_by_its_guard_at_the_deadline",
    ),
    Mutant(
        "agent: hold without a guard goes on",
        "slackwater/agent/guarding.py",
        "self._on_end()",
        "pass",
        f"{DEATHS}::test_killed_guard_ends_the_hold",
    ),
    Mutant(
        "agent: silent Primary believed for ever",
        "slackwater/agent/session.py",
        "async with asyncio.timeout(grace):",
        "async with asyncio.timeout(None):",
        f"{DEATHS}::test_agent_resumes_when_the_primary_is_silent",
    ),
    Mutant(
        "agent: agent does not thaw at its start",
        "slackwater/agent/agent.py",
        "await self._recover()",
        "pass",
        f"{DEATHS}::test_both_killed_the_next_agent_resumes_at_its_start",
    ),
    Mutant(
        "agent: second agent undoes the hold of the first",
        "slackwater/agent/agent.py",
        "if attempt.enter_context(self._ledger.owned()):",
        "if attempt.enter_context(self._ledger.owned()) is not None:",
        f"{DEATHS}::test_second_agent_on_the_same_host_leaves_the_hold_of_the_first_alone",
    ),
    Mutant(
        "agent: what a program started left running",
        "slackwater/agent/kinds/program.py",
        "os.killpg(process.pid, signal.SIGKILL)",
        "process.kill()",
        f"{COMMAND}::test_program_that_hangs_is_ended_with_all_its_children",
    ),
    Mutant(
        "agent: program of others run",
        "slackwater/agent/kinds/program.py",
        "if problem := distrust(part):",
        'if problem := "":',
        f"{COMMAND}::test_program_that_cannot_be_run_or_trusted_is_refused",
    ),
    Mutant(
        "agent: thaw by somebody else hidden",
        "slackwater/agent/kinds/fsfreeze.py",
        "broken.append(path)",
        "pass",
        f"{FILE_SYSTEMS}::test_thaw_by_somebody_else_breaks_the_hold",
    ),
    Mutant(
        "agent: partial freeze left",
        "slackwater/agent/kinds/fsfreeze.py",
        "self._roll_back()\n            raise",
        "raise",
        f"{FILE_SYSTEMS}::test_partial_freeze_rolls_back",
    ),
    Mutant(
        "agent: lost backup called unbroken",
        "slackwater/agent/kinds/postgres.py",
        "return Resumption(False, str(failure))",
        "return Resumption(True, str(failure))",
        f"{POSTGRES}::test_lost_connection_is_a_broken_hold",
    ),
)
