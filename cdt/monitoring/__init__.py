"""What a run shows while it goes on: metrics, progress, where its time went, plots."""
