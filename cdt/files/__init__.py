"""Atomic writing of files, and safe reading of files from unknown sources.

atomic       atomic writes
plain_json   results as JSON
npz          npz and npy files, checked before they are loaded
pytorch      state dicts in PyTorch files, read without PyTorch
safetensors  safetensors files
"""
