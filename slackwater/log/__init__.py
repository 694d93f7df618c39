"""The log: segments, appending and group sync, reading, trimming, recovery.

`log.Log` appends, `reader.LogReader` reads from anywhere, `recovery` decides what a log holds after
a crash, `marks.SharedMarks` tells senders how far they may read. The format is described, byte by
byte, in docs/log-format.md.
"""
