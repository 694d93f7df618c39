"""The three services. They share `slackwater`, never import each other, and meet on the wire."""
