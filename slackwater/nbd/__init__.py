"""Network Block Device: the protocol (sans-I/O), a threaded server and a small client."""
