"""The train step and what it is made of: state, optimizer, averages, augmentation, validation."""
