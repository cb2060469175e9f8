"""Noise families, what a network predicts, its loss, and guidance. Images are [B, ..., C]."""
