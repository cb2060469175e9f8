"""PyTorch files are read without PyTorch and without running their code.

The files are built here opcode by opcode; tests/peers reads files that PyTorch wrote.
"""

import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from cdt.files.pytorch import read_state_dict

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def plain(value):
    """Opcodes that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(kind, key, numel, *view):
    parts = plain("storage"), named("torch", kind), plain(key), plain("cpu"), plain(numel), *view
    return b"(" + b"".join(parts) + b"tQ"


def tensor(storage, offset, size, stride, metadata=None):
    ordered_dict = call(named("collections", "OrderedDict"))
    rest = plain(offset), plain(size), plain(stride), plain(False), ordered_dict
    rest += () if metadata is None else (plain(metadata),)
    return call(named("torch._utils", "_rebuild_tensor_v2"), storage, *rest)


def parameter(tensor):
    empty = call(named("collections", "OrderedDict"))
    return call(named("torch._utils", "_rebuild_parameter"), tensor, plain(True), empty)


def program(**entries):
    return b"\x80\x02}(" + b"".join(plain(k) + v for k, v in entries.items()) + b"u."


def zip_file(program, storages, folder="model", **extra):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", program)
        for key, data in storages.items():
            archive.writestr(f"{folder}/data/{key}", data)
        for name, data in extra.items():
            archive.writestr(f"{folder}/{name}", data)
    return stream.getvalue()


def legacy_file(program, storages, magic=MAGIC, little_endian=True):
    """`storages`: {key: (numel, bytes)}."""
    system = {"protocol_version": PROTOCOL, "little_endian": little_endian, "type_sizes": {}}
    head = b"".join(pickle.dumps(x, 2) for x in (magic, PROTOCOL, system))
    tail = b"".join(struct.pack("<q", n) + data for n, data in storages.values())
    return head + program + pickle.dumps(list(storages), 2) + tail


@pytest.fixture
def read(tmp_path):
    def read(data):
        path = tmp_path / "model.pth"
        path.write_bytes(data)
        return read_state_dict(path)

    return read


MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE = program(w=tensor(storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1)))


def test_zip(read):
    found = read(zip_file(ONE, {"0": MATRIX.tobytes()}, byteorder=b"little", version=b"3\n"))
    assert list(found) == ["w"] and found["w"].dtype == np.float32
    assert np.array_equal(found["w"], MATRIX)


def test_legacy(read):
    pickled = program(w=tensor(storage("FloatStorage", "77", 6, plain(None)), 0, (2, 3), (3, 1)))
    found = read(legacy_file(pickled, {"77": (6, MATRIX.tobytes())}))
    assert list(found) == ["w"] and np.array_equal(found["w"], MATRIX)


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("BoolStorage", np.bool_), ("ByteStorage", np.uint8), ("CharStorage", np.int8),
        ("ShortStorage", np.int16), ("IntStorage", np.int32), ("LongStorage", np.int64),
        ("HalfStorage", np.float16), ("BFloat16Storage", ml_dtypes.bfloat16),
        ("FloatStorage", np.float32), ("DoubleStorage", np.float64),
        ("ComplexFloatStorage", np.complex64), ("ComplexDoubleStorage", np.complex128),
    ],
)  # fmt: skip
def test_dtypes(read, kind, dtype):
    values = np.array([1, 0, 1]).astype(dtype)
    data = {"0": values.tobytes()}
    found = read(zip_file(program(w=tensor(storage(kind, "0", 3), 0, (3,), (1,))), data))["w"]
    assert found.dtype == dtype and np.array_equal(found, values)


def test_views_of_one_storage(read):
    whole = storage("FloatStorage", "0", 6)
    pickled = program(
        transposed=parameter(tensor(whole, 0, (3, 2), (1, 3))),
        column=tensor(whole, 1, (2,), (3,)),
        scalar=tensor(whole, 5, (), ()),
        repeated=tensor(whole, 2, (4,), (0,)),
        empty=tensor(whole, 0, (0, 3), (3, 1)),
    )
    found = read(zip_file(pickled, {"0": MATRIX.tobytes()}))
    assert np.array_equal(found["transposed"], MATRIX.T)
    assert np.array_equal(found["column"], MATRIX[:, 1])
    assert found["scalar"].shape == () and found["scalar"] == 5
    assert np.array_equal(found["repeated"], [2, 2, 2, 2])
    assert found["empty"].shape == (0, 3)
    assert np.shares_memory(found["transposed"], found["column"])
    assert not found["column"].flags.writeable


def test_a_state_dict_among_others(tmp_path):
    """As a training script saves it: with the optimizer state and command-line arguments."""
    namespace = named("argparse", "Namespace") + b")\x81" + plain({"lr": 1e-4}) + b"b"
    pickled = program(
        opt=plain({"state": {}, "step": 7}), args=namespace, ema=ONE.removeprefix(b"\x80\x02")[:-1]
    )
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(zip_file(pickled, {"0": MATRIX.tobytes()}))
    found = read_state_dict(path, inside="ema")
    assert list(found) == ["w"] and np.array_equal(found["w"], MATRIX)
    for inside in (None, "model"):  # then the file itself is read as a state dict
        with pytest.raises(ValueError, match="entry 'opt' is a dict"):
            read_state_dict(path, inside)
    path.write_bytes(zip_file(ONE, {"0": MATRIX.tobytes()}))
    assert list(read_state_dict(path, inside="ema")) == ["w"]


@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
@pytest.mark.parametrize(
    "function, argument",
    [
        (("os", "system"), "touch ran"),
        (("posix", "system"), "touch ran"),
        (("builtins", "eval"), "open('ran', 'w')"),
        (("torch.storage", "_load_from_bytes"), b"anything"),
        (("collections", "OrderedDict.fromkeys"), "ab"),
    ],
)
def test_callables_are_refused(read, tmp_path, monkeypatch, wrap, function, argument):
    monkeypatch.chdir(tmp_path)
    pickled = program(w=call(named(*function), plain(argument)))
    with pytest.raises(ValueError, match=f"uses {function[0]}.{function[1]}"):
        read(wrap(pickled, {}))
    assert not os.path.exists("ran")


def test_the_first_pickle_of_a_legacy_file_is_restricted_too(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="uses os.system"):
        read(b"\x80\x02" + call(named("os", "system"), plain("touch ran")) + b".")
    assert not os.path.exists("ran")


def test_the_type_of_a_storage_cannot_be_called(read):
    with pytest.raises(ValueError, match="is damaged"):
        read(zip_file(program(w=call(named("torch", "FloatStorage"), plain(1 << 40))), {}))


@pytest.mark.parametrize(
    "entry",
    [
        (1, (2, 3), (3, 1)),  # past the end
        (-1, (2,), (1,)),
        (0, (2,), (6,)),
        (1, (2,), (-2,)),
        (0, (1 << 62, 1 << 62), (0, 0)),
        (0, (2, 3), (3,)),
    ],
)
def test_tensors_stay_inside_their_storage(read, entry):
    pickled = program(w=tensor(storage("FloatStorage", "0", 6), *entry))
    with pytest.raises(ValueError, match="is damaged"):
        read(zip_file(pickled, {"0": MATRIX.tobytes()}))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is damaged or is not a PyTorch file"),
        (b"PK not an archive", "is damaged or is not a PyTorch file"),
        (b"GIF89a", "is damaged or is not a PyTorch file"),
        (pickle.dumps({"w": 1}), "magic number"),
        (legacy_file(ONE, {}, magic=7), "magic number"),
        (legacy_file(ONE, {}, little_endian=False), "big-endian"),
        (legacy_file(ONE, {"0": (5, MATRIX.tobytes())}), "5 elements, but 6 were declared"),
        (zip_file(ONE, {"0": MATRIX.tobytes()}, byteorder=b"big"), "big-endian"),
        (zip_file(ONE, {"0": MATRIX.tobytes()}, folder="a/b"), "no data.pkl"),
        (zip_file(ONE, {"0": MATRIX.tobytes()[:-4]}), "truncated"),
        (zip_file(ONE, {}), "is damaged"),
        (zip_file(b"\x80\x02K\x01.", {}), "contains a int, not a dictionary"),
        (zip_file(program(epoch=plain(3)), {}), "entry 'epoch' is a int"),
        (zip_file(program(w=storage("FloatStorage", "0", 6)), {}), "entry 'w' is a _Storage"),
        (zip_file(program(w=storage("Storage", "0", 6)), {}), "uses torch.Storage"),
        (zip_file(program(w=b"(" + plain("module") + plain(4) * 4 + b"tQ"), {}), "not a storage"),
        (
            zip_file(program(w=storage("FloatStorage", "0", 6, plain(("1", 0, 3)))), {}),
            "not a storage",
        ),
        (
            zip_file(
                program(w=tensor(storage("FloatStorage", "0", 6), 0, (6,), (1,), {"conj": True})),
                {"0": MATRIX.tobytes()},
            ),
            "metadata {'conj': True}",
        ),
    ],
)
def test_damaged_and_foreign_files(read, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(data)
    assert "model.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "whole",
    [zip_file(ONE, {"0": MATRIX.tobytes()}), legacy_file(ONE, {"0": (6, MATRIX.tobytes())})],
    ids=["zip", "legacy"],
)
def test_truncated_anywhere(read, whole):
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            read(whole[:length])


def test_flipped_bits_of_a_zip_file_are_found(read):
    whole = zip_file(ONE, {"0": MATRIX.tobytes()})
    start = whole.index(MATRIX.tobytes())
    for position in range(start, start + MATRIX.nbytes):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        with pytest.raises(ValueError, match="CRC"):
            read(bytes(damaged))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "absent.pth")
