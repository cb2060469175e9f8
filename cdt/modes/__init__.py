"""The programs behind --mode: one file a mode, called as the mode is called.

train       the training loop
sample      draws samples
evaluate    measures them
difficulty  how hard each noise level is
compare     arms against a baseline
replay      one step again
"""
