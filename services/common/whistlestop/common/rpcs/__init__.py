"""RPCs: their types, the services that they belong to, how they are called and how they are handled.

`rpc.py` and `handlers.py` are written by hand. Each module `*_service.py` is generated from the `service` block of its
`.proto` file by `make proto`.
"""
