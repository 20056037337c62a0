"""The pure core of the history service.

Rules: nothing here does I/O, reads a clock, draws random numbers or logs; `now_ns` and `ids` are arguments. A request
is decided on a `Run` (a working copy of one run's mutable state), which collects events and effects. Only `apply_event`
changes what history records. An illegal request raises ServiceError, and the working copy is thrown away.

There is a package for each concept. Its `state.py` applies events to the state, its `decide.py` decides, its
`deadlines.py` says when it has something to do, its `timeouts.py` does that, and its `describe.py` shows it. No module
and no package imports itself by way of others, type checking included. From the lowest to the highest:

- modules of the core itself that hold a state, a limit or a conversion: `state_pb2`, `limits`, `times`, `retry`, …
- `transition`: the `Run`, how an event is applied, the effects that are written with it, and the records of its commit
- `versioning`, `timeskip`, `callback`, `workflow_task`, `signal`, `chain`
- `commands`: what the handlers of commands share
- `child`, `external`, `timer`, `workflow`, `activity`, `nexus`, `operations`, `update`
- modules of the core itself that know all concepts: `appliers`, `command_handlers`, `completion` (a worker's answer),
  `deadlines` (the timer row fires), `finish` (the decisions that end every transition),
  `describe` (DescribeWorkflowExecution)
"""
