"""Gradients of an answer with respect to what each feed-forward layer writes.

A layer's output is replaced, at one position; only what comes after it is computed again.
"""
