"""The reader of PyTorch files, tested on both formats that PyTorch writes."""

import ml_dtypes
import numpy as np
import pytest
import torch

from cdt.files.pytorch import read_state_dict

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def written(path, state, zipped):
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return read_state_dict(path)


@FORMATS
@pytest.mark.parametrize(
    "theirs, ours",
    [
        (torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16),
        (torch.float32, np.float32), (torch.float64, np.float64), (torch.int64, np.int64),
        (torch.int32, np.int32), (torch.int16, np.int16), (torch.int8, np.int8),
        (torch.uint8, np.uint8), (torch.bool, np.bool_), (torch.complex64, np.complex64),
    ],
    ids=str,
)  # fmt: skip
def test_dtypes(tmp_path, zipped, theirs, ours):
    values = torch.arange(-3, 4).to(theirs)
    found = written(tmp_path / "a.pth", {"x": values}, zipped)["x"]
    assert found.dtype == ours
    assert np.array_equal(found, np.array(values.tolist()).astype(ours))


@FORMATS
def test_shared_and_strided_tensors(tmp_path, zipped):
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "base": base,
        "part": base[1, 1:, ::2],
        "turned": base.permute(2, 0, 1),
        "expanded": base[0, 0, :1].expand(5),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "other": torch.ones(2),
    }
    found = written(tmp_path / "a.pth", state, zipped)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].shape == tensor.shape
        assert np.array_equal(found[name], tensor.numpy()), name
    assert np.shares_memory(found["base"], found["part"])
    assert not np.shares_memory(found["base"], found["other"])


@FORMATS
def test_state_dict_of_a_module(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = written(tmp_path / "a.pth", module.state_dict(), zipped)
    assert found["1.num_batches_tracked"].dtype == np.int64
    for name, tensor in module.state_dict().items():
        assert np.array_equal(found[name], tensor.numpy()), name
    # Parameter objects, which an optimizer or an EMA may save.
    found = written(tmp_path / "b.pth", dict(module.named_parameters()), zipped)
    assert np.array_equal(found["0.weight"], module[0].weight.detach().numpy())


@FORMATS
def test_a_whole_module_is_refused(tmp_path, zipped):
    with pytest.raises(ValueError, match="uses torch"):
        written(tmp_path / "a.pth", torch.nn.Linear(2, 2), zipped)
