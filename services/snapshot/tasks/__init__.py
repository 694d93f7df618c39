"""Tasks: the whole cycle around one message, defined once, run on one or many Secondaries."""
