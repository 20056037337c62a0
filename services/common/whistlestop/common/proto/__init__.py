"""Our own messages, beside Temporal's: internal calls between the functions, and what the store keeps of a namespace.

The `*_pb2.py` modules are generated from the `.proto` files beside them by `make proto`.
"""
