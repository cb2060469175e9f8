"""The files of a run: config, lock and checkpoints.

record       config.json: write, read, compare with a config
identity     the config keys that identify a run
lock         lock.json: one writer at a time
checkpoint   save, verify and restore checkpoints
saver        saving during training, with handling of failures
manifest     types and checksums stored in a checkpoint
leaves       paths, types and checksums of the arrays in a tree
quiet_orbax  filters for Orbax's log messages
"""
