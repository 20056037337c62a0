"""Attacks by callers who are known: what they must not reach, spend or spoil."""
