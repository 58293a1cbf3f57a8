"""Reducers: fixed-size, mergeable summaries of a stream of activations."""
