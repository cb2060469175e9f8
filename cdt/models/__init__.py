"""Networks: Flax modules from (noisy input, time input, label) to the raw network output."""
