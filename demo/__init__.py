"""The demonstration: `python -m demo` runs the whole cycle on this machine and checks it."""
