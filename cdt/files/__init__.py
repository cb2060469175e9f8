"""Files of any room: written whole or not at all, and read without trusting what they claim.

atomic       files that are seen whole or not at all
plain_json   results as JSON
npz          npz and npy files, with a look at what they claim
pytorch      state dicts of PyTorch files, without PyTorch
safetensors  safetensors files
"""
