"""The node: control API, state, loads and mounts of one machine, and the keeper above it.

Imports nothing, so that the keeper stays small.
"""
