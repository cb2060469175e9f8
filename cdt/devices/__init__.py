"""Devices and processes.

sharding     mesh, and the placement of arrays on it
compilation  compilation cache; programs compiled in parallel
memory       memory of a compiled program and of the devices
malloc       host memory that is kept between steps
launcher     the cluster that started this process
processes    several processes join, stop and end together
agreement    values that processes compare and exchange
in_flight    steps that are started and not finished
signals      SIGTERM and SIGINT: stop after a step
"""
