"""What a run leaves on disk.

record       the config, and whose run a folder holds
identity     what makes a run the run it is
lock         one run at a time writes
checkpoint   save, verify, restore
saver        saves while a run trains
manifest     what a checkpoint says about itself
leaves       paths, types and checksums of arrays
quiet_orbax  Orbax's messages
"""
