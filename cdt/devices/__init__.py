"""Devices and processes.

sharding     mesh, and where arrays lie on it
compilation  compilation cache; programs compiled side by side
memory       what a compiled program needs, and what devices have
malloc       host memory that is kept between steps
launcher     which cluster started this process
processes    several processes join, stop and end together
agreement    what processes compare and tell each other
in_flight    steps that are started and not done
signals      SIGTERM and SIGINT: stop after a step
"""
