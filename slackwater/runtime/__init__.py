"""What every service runs on: configuration, gRPC, TLS and roles, health, telemetry, lifecycle.

It knows no mechanism: services hand in what they run, and it starts, serves, watches and drains it.
"""
