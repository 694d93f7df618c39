"""The link between a Primary and one Secondary, sans-I/O.

`sender` is the Primary's view of one link, `receiver` the Secondary's side of one stream; `wire`
makes and cuts the bytes of an Append without protobuf objects. Both sides are fed what happened
(stream opened, message received, log read, time passed) and drained of what to do. The shells in
the services own sockets, files, threads and clocks.
"""
