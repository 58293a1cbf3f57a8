"""Probes of many heads at once: SentEval's classifiers as one batched optimisation.

`protocols.probe_classes` and `relatedness.probe_scores` train and test them, `features` turns
sentence vectors into what they read. Nothing here knows a model, a bank or a file.
"""
