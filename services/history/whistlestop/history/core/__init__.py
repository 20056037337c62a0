"""The pure core of the history service.

Rules: nothing here does I/O, reads a clock, draws random numbers or logs; `now_ns` and `ids` are arguments. A request
is decided on a `Run` (a working copy of one run's mutable state), which collects events and effects. Only `apply_event`
changes what history records. An illegal request raises ServiceError, and the working copy is thrown away.
"""
