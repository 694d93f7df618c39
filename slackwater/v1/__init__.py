"""Generated from protos/slackwater/v1; never edited."""
