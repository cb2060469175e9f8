"""The modes of the command, one file each; file and function have the name of the mode.

train       the training loop
sample      generates images
evaluate    computes metrics of samples
difficulty  measures how hard each noise level is
compare     compares arms with a baseline
replay      repeats one step
"""
