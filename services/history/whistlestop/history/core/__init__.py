"""The pure core of the history service.

Rules: nothing here does I/O, reads a clock, draws randomness or logs; `now_ns` and `ids` are arguments. A request is
decided on a `Run` (a working copy of one run's mutable state), which collects events and effects. `apply_event` alone
changes what history carries. An illegal request raises ServiceError, and the working copy is thrown away.
"""
