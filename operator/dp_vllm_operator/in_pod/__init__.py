"""Programs that run in the pods of a model: each is one file for any Python from 3.9 on, and needs nothing of ours.

The operator ships their text in a ConfigMap; it never imports them.
"""
