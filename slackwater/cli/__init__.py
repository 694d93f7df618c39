"""The command line: everything an operator does, over gRPC. It imports no mechanism."""
