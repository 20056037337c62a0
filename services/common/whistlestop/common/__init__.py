"""What the three functions share: clock, ids, errors, contexts, clients, notifications. No I/O of its own."""
