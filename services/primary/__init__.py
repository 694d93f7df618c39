"""The primary service: volumes over NBD, the log, the links."""
