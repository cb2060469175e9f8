"""Captions of the emoji package, on an excerpt in the same format."""

import json

import numpy as np
from PIL import Image

from cdt.data import emoji
from cdt.data.folder import folder
from cdt.errors import EXIT_FINISHED, EXIT_USER_ERROR

ENTRIES = [
    {"name": "DOG FACE", "image": "1f436.png", "category": "Animals", "has_img_google": True},
    {"name": "NEW", "image": "new.png", "category": "Animals", "has_img_google": False},
    {
        "name": "HANDSHAKE", "image": "1f91d.png", "category": "People", "has_img_google": True,
        "skin_variations": {
            "1F3FD": {"image": "1f91d-1f3fd.png", "has_img_google": True},
            "1F3FB-1F3FF": {"image": "1f91d-b-f.png", "has_img_google": True},
        },
    },
]  # fmt: skip
CAPTIONS = {
    "1f436.png": "dog face",
    "1f91d-1f3fd.png": "handshake, medium skin tone",
    "1f91d-b-f.png": "handshake, light and dark skin tone",
    "1f91d.png": "handshake",
}


def test_the_folder_of_pictures_becomes_a_source(tmp_path, capsys):
    pictures = tmp_path / emoji.PICTURES
    pictures.mkdir(parents=True)
    for name in CAPTIONS:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pictures / name)
    (tmp_path / "emoji.json").write_text(json.dumps(ENTRIES))
    assert emoji.emoji_command(["emoji", str(tmp_path)]) == EXIT_FINISHED
    assert "4 captions" in capsys.readouterr().out
    source = folder(pictures, 4, 3)
    assert source.captions(np.arange(4)) == [(caption,) for caption in CAPTIONS.values()]
    assert source.classes == ("Animals", "People") and source.labels.tolist() == [0, 1, 1, 1]


def test_another_folder_is_refused(tmp_path, capsys):
    assert emoji.emoji_command(["emoji", str(tmp_path)]) == EXIT_USER_ERROR
    assert "npm pack" in capsys.readouterr().err
    (tmp_path / "emoji.json").write_text('{"a": 1}')
    assert emoji.emoji_command(["emoji", str(tmp_path)]) == EXIT_USER_ERROR
    assert emoji.emoji_command(["emoji"]) == EXIT_USER_ERROR
