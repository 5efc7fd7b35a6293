"""The control API: resource models, errors, the client, and where a node keeps its things.

One schema serves the command line, the node and (later) the custom resources of a cluster.
Importing this package imports nothing else, so that small programs pay only for what they use.
"""
