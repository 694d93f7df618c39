"""The tables of group.db. Both roles keep the same ones; never written per write or batch."""

VERSION = 4

TABLES = """
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    uid BLOB NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, epoch INTEGER NOT NULL,
    created_ns INTEGER NOT NULL, settings TEXT NOT NULL,
    next_volume_id INTEGER NOT NULL DEFAULT 1,
    replica_state TEXT NOT NULL DEFAULT '', replica_reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY, lsn INTEGER NOT NULL, chain INTEGER NOT NULL,
    began_ns INTEGER NOT NULL
);
CREATE TABLE starts (
    lsn INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, chain INTEGER NOT NULL
);
CREATE TABLE log (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    start_offset INTEGER NOT NULL, start_epoch INTEGER NOT NULL,
    start_lsn INTEGER NOT NULL, start_chain INTEGER NOT NULL,
    checkpoint_offset INTEGER NOT NULL, checkpoint_epoch INTEGER NOT NULL,
    checkpoint_lsn INTEGER NOT NULL, checkpoint_chain INTEGER NOT NULL,
    clean_end INTEGER
);
CREATE TABLE volumes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, state TEXT NOT NULL,
    path TEXT NOT NULL, lsn INTEGER NOT NULL
);
CREATE TABLE links (
    name TEXT PRIMARY KEY, uid BLOB NOT NULL, endpoint TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0,
    dirty INTEGER NOT NULL DEFAULT 0, discard INTEGER NOT NULL DEFAULT 0,
    acked_epoch INTEGER, acked_lsn INTEGER, acked_chain INTEGER, acked_offset INTEGER,
    sync_id TEXT NOT NULL DEFAULT '', created_ns INTEGER NOT NULL, settings TEXT NOT NULL
);
CREATE TABLE applications (
    name TEXT PRIMARY KEY, deliver_timeout REAL, created_ns INTEGER NOT NULL
);
CREATE TABLE messages (
    id TEXT PRIMARY KEY, lsn INTEGER NOT NULL UNIQUE, epoch INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    application TEXT NOT NULL, request_id TEXT, time_ns INTEGER NOT NULL, record BLOB NOT NULL,
    links TEXT NOT NULL, fence_seconds REAL NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX messages_request ON messages (request_id) WHERE request_id IS NOT NULL;
CREATE TABLE verdicts (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL, link TEXT NOT NULL, source INTEGER NOT NULL, lsn INTEGER NOT NULL,
    state TEXT NOT NULL, detail TEXT NOT NULL, time_ns INTEGER NOT NULL, final INTEGER NOT NULL,
    confirmed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (link, source, message_id, state)
);
CREATE INDEX verdicts_message ON verdicts (message_id);
CREATE INDEX verdicts_unconfirmed ON verdicts (link, sequence) WHERE confirmed = 0;
CREATE TABLE outcomes (
    message_id TEXT PRIMARY KEY, lsn INTEGER NOT NULL, state TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TABLE effects (lsn INTEGER PRIMARY KEY, kind TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, uid BLOB NOT NULL,
    offset INTEGER NOT NULL, epoch INTEGER NOT NULL, lsn INTEGER NOT NULL, chain INTEGER NOT NULL,
    state TEXT NOT NULL, grade TEXT NOT NULL, message_id TEXT NOT NULL, guard INTEGER NOT NULL,
    exported INTEGER NOT NULL, chunk_bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL,
    volumes TEXT NOT NULL, evidence TEXT NOT NULL,
    held INTEGER NOT NULL, hold_note TEXT NOT NULL,
    kind TEXT NOT NULL, copied INTEGER NOT NULL
);
CREATE TABLE clones (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, uid BLOB NOT NULL,
    snapshot_uid BLOB NOT NULL, state TEXT NOT NULL, exported INTEGER NOT NULL,
    chunk_bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL, volumes TEXT NOT NULL,
    top BLOB NOT NULL, layers TEXT NOT NULL, parent BLOB
);
CREATE TABLE budget (one INTEGER PRIMARY KEY CHECK (one = 1), detail TEXT NOT NULL);
CREATE TABLE expired (id INTEGER PRIMARY KEY AUTOINCREMENT, detail TEXT NOT NULL);
CREATE TABLE checks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, snapshot_uid BLOB NOT NULL,
    check_name TEXT NOT NULL, verdict TEXT NOT NULL, start_ns INTEGER NOT NULL,
    took_ns INTEGER NOT NULL, reason TEXT NOT NULL, output TEXT NOT NULL
);
CREATE TABLE restores (id INTEGER PRIMARY KEY AUTOINCREMENT, detail TEXT NOT NULL);
CREATE TABLE delivery (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    message_id TEXT NOT NULL, lsn INTEGER NOT NULL, phase TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TABLE sync (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sync_id TEXT NOT NULL, cursor_volume INTEGER, cursor_offset INTEGER,
    consistent_lsn INTEGER, guard TEXT NOT NULL, total_bytes INTEGER NOT NULL
);
CREATE TABLE requests (
    request_id TEXT PRIMARY KEY, method TEXT NOT NULL, response BLOB NOT NULL,
    created_ns INTEGER NOT NULL
);
"""
