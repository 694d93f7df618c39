"""The Secondary's engine for one group: receive, apply in order, stop at messages, snapshot."""
