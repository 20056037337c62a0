"""Our own messages, beside Temporal's: what the functions tell each other and what the store keeps of a namespace.

`*_pb2.py` are generated from the `.proto` files beside them by `make proto`.
"""
