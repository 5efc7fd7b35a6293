"""atlasctl, the command line: one module per noun.

Importing must stay cheap: `atlasctl --help` loads Click and the modules that declare options, and
nothing else. Whatever a command needs beyond that is imported inside the command.
"""
