"""Experiments as pure functions: who is in which variant, what the numbers say, what follows.

Nothing here reads or writes anything; `features.logs.experiments` keeps experiments and what they
have seen, `flows.experiments` and the gateway act on them.
"""
