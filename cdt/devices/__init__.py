"""Devices and processes: mesh, compilation, memory, signals, several processes."""
