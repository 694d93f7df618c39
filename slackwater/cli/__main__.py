"""`python -m slackwater.cli`, the same as `slackwater`."""

from slackwater.cli.main import main

if __name__ == "__main__":
    main()
