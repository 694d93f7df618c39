"""The agent: beside an application, it quiesces and resumes it when the Primary asks.

`keeper` decides (sans-I/O), `session` talks to the Primary, `kinds` know how an application is
held, `ledger` keeps what is held over crashes, `guard` resumes when the agent cannot, `holding`
puts a kind, the ledger and the guard together, `agent` drives it all.
"""
