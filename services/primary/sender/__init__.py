"""A sender: the process that carries links, so that no writer shares an interpreter with them.

It is started by the primary service before gRPC (D15) and ends when the control channel closes. Of
the data it knows three things: the page of marks, the log's segments and the volumes' files, all
read through the page cache. Everything durable about a link is written by the main process, which
is asked over the control channel.
"""
