"""In-band control messages, sans-I/O: names, the send side, and delivery on a Secondary."""
