import io
import time
from collections import OrderedDict

import numpy as np
import pytest
from support import torch_writer
from support.torch_reading import refusal, same_bits
from support.torch_writer import Call, Global, Stored, parameter, tensor, write, write_pickle

from asdjax.convert.torch_file import read
from asdjax.convert.torch_pickle import Placeholder, load
from asdjax.errors import AsdjaxError


def test_parameters_and_what_pytorch_adds_to_them(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    utils = "torch._utils"
    tree = {
        "parameter": parameter(array),
        "attributes": Call(
            Global(utils, "_rebuild_parameter_with_state"),
            (tensor(array), True, OrderedDict(), {"sharded": True}),
        ),
        "tensor": Call(
            Global("torch._tensor", "_rebuild_from_type_v2"),
            (
                Global(utils, "_rebuild_tensor_v2"),
                Global("torch", "Tensor"),
                tensor(array).args,
                {},
            ),
        ),
        "oldest": Call(Global(utils, "_rebuild_tensor"), tensor(array).args[:4]),
    }
    write(tmp_path / "some.pt", tree)
    result = read(tmp_path / "some.pt")
    assert list(result) == list(tree)
    assert all(same_bits(value, array) for value in result.values())
    assert np.shares_memory(result["parameter"], result["oldest"])


def test_plain_values_of_pytorch(tmp_path):
    layout = Call(Global("torch.serialization", "_get_layout"), ("torch.strided",))
    tree = [
        Call(Global("torch", "Size"), ((2, 3),)), Global("torch", "bfloat16"), layout,
        Call(Global("torch", "device"), ("cuda", 1)), Call(Global("torch", "device"), ("cpu",)),
        Call(Global("__builtin__", "complex"), (1.0, -2.0)),
        Call(Global("__builtin__", "bytes"), ()),
        Call(Global("collections", "OrderedDict"), ([["b", 1], ("a", 2)],)),
    ]  # fmt: skip
    write(tmp_path / "some.pt", tree)
    *values, pairs = read(tmp_path / "some.pt")
    assert values == [(2, 3), "torch.bfloat16", "torch.strided", "cuda:1", "cpu", 1 - 2j, b""]
    assert list(pairs.items()) == [("b", 1), ("a", 2)]


# What must be refused, and the sentence.


def crafted(**changes) -> Call:
    """A tensor of one of whose arguments is something else."""
    names = ["storage", "offset", "shape", "strides", "grad", "hooks", "metadata"]
    args = dict(zip(names, (*tensor(np.zeros(4, np.float32)).args, None), strict=True)) | changes
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), tuple(args.values()))


FOUR = np.zeros(4, np.float32)
BAD_TREES = {
    "conjugated": (crafted(metadata={"conj": True}), "_rebuild_tensor_v2 called with"),
    "negative size": (crafted(shape=(-1,)), "offset, size or stride"),
    "flag as size": (crafted(shape=(True,)), "offset, size or stride"),
    "float as size": (crafted(shape=(4.0,)), "offset, size or stride"),
    "list as shape": (crafted(shape=[4]), "without a shape"),
    "huge offset": (crafted(offset=2**64), "offset, size or stride"),
    "just beyond": (crafted(offset=1), "reaches beyond its storage"),
    "empty, huge": (crafted(shape=(0, 2**62), strides=(1, 1)), "expands"),
    "too many strides": (crafted(strides=(1, 1)), "1 dimensions with 2 strides"),
    "rank 65": (crafted(shape=(1,) * 65, strides=(1,) * 65), "65 dimensions"),
    "storage too long": (crafted(storage=Stored(FOUR, 5)), "has 16 bytes, not 20"),
    "storage too short": (crafted(storage=Stored(FOUR, 3)), "16 bytes, more than 12"),
    "storage of none": (crafted(storage=Stored(FOUR, -4)), "a storage that"),
    "no storage": (crafted(storage=7), "_rebuild_tensor_v2 called with"),
    "two lengths": ([FOUR, tensor(FOUR), Stored(FOUR, 3)], "a storage that"),
    "bare storage": (Stored(FOUR), "function or storage"),
    "bare function": ({"f": Global("torch._utils", "_rebuild_tensor_v2")}, "function or storage"),
    "complex32": (Global("torch", "complex32"), "'torch.complex32'"),
    "prefix": (Global("torch._utils", "_rebuild_tensor_v2x"), "do not use"),
    "dotted name": (Global("torch", "_utils._rebuild_tensor_v2"), "do not use"),
    "dotted module": (Global("torch._utils _rebuild_tensor_v2", ""), "do not use"),
    "getattr": (Call(Global("__builtin__", "getattr"), ("a", "b")), "'__builtin__.getattr'"),
    "hostile name": (Global("a\x1b[2J" * 500, "b"), r"refers to 'a\x1b[2Ja\x1b[2J"),
    "new object": (Call(Global("collections", "OrderedDict"), (), new=True), "not a class"),
    "call of text": (Call("os.system", ("true",)), "not a function"),
    "other codec": (Call(Global("_codecs", "encode"), ("a", "rot13")), "called with"),
    "no latin-1": (Call(Global("_codecs", "encode"), ("€", "latin1")), "called with"),
    "unhashable key": (Call(Global("collections", "OrderedDict"), ([[[], 1]],)), "a key"),
    "no pairs": (Call(Global("collections", "OrderedDict"), ([1, 2],)), "called with"),
    "repeated": ([tensor(np.zeros(2**20, np.uint8), (60, 2**20), (0, 1))] * 2, "expands"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TREES)
def test_trees_refused(name, tmp_path):
    tree, reason = BAD_TREES[name]
    write(tmp_path / "bad.pt", tree)
    assert reason in refusal(tmp_path / "bad.pt")


DEEP = 100_000
BAD_PICKLES = {
    "no stop": (b"}", "incomplete pickle"),
    "underflow": (b"}s.", "empty stack"),
    "below the mark": (b"}(s.", "empty stack"),
    "no mark": (b"}u.", "empty stack"),
    "odd items": (b"}(K\x01u.", "keys of an object"),
    "items of a number": (b"K\x01(K\x01e.", "items of an object"),
    "no memo": (b"h\x07.", "an undefined object"),
    "attributes": (b"]}b.", "attributes of an object"),
    "text opcode": (b"I1\n.", "the pickle operation INT"),
    "set": (b"\x8f.", "the pickle operation EMPTY_SET"),
    "extension": (b"\x82\x01.", "the pickle operation EXT1"),
    "long number": (b"\x8b\x00\x01\x00\x00" + bytes(256) + b".", "the pickle operation LONG4"),
    "text that is not there": (b"X\xff\xff\xff\x7fabc.", "incomplete pickle"),
    "text of 2**62 bytes": (b"\x8d" + (2**62).to_bytes(8, "little") + b".", "incomplete pickle"),
    "hostile name": (b"\x8c\x05a\n\x1b[2\x8c\x05b\n: c\x93.", r"'a\n\x1b[2.b\n: c'"),
    "escaped name": (b"ctorch\nSi\\x7ae\n.", r"'torch.Si\\x7ae'"),
    "unknown escape": (b"cto\\rch\nSi\\Xze\n.", "which weights do not need"),
    "cut in a name": (b"ctorch\nSize", "incomplete pickle"),
    "nameless": (b"K\x01K\x02\x93.", "a global without a name"),
    "persistent text": (b"Pabc\n.", "the pickle operation PERSID"),
    "persistent number": (b"K\x01Q.", "a storage that"),
    "unhashable key": (b"}]K\x01s.", "a key"),
    "deep key": (b"})" + b"\x85" * DEEP + b"K\x01s.", "a key"),
    "deep": (b"]" * DEEP + b"a" * (DEEP - 1) + b".", "nested too deeply"),
    "cycle": (b"]q\x00h\x00a.", "nested too deeply"),
    "doubling": (b")" + b"q\x00h\x00\x86" * 60 + b".", "too many items"),
    "much work": (b"]" * 2_000_000 + b".", "far more operations"),
    "copies": (
        b"c_codecs\nencode\nq\x00X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"\x8c\x06latin1\x86q\x01"
        + b"h\x00h\x01R" * 1000 + b".",
        "far more operations",
    ),
    "copied pairs": (
        b"](" + b"NN\x86" * 1000 + b"e\x85q\x00ccollections\nOrderedDict\nq\x01"
        + b"h\x01h\x00R" * 2000 + b".",
        "far more operations",
    ),
    "calls in calls": (
        b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00ctorch\nTensor\nq\x01)q\x02"
        + b"(h\x00h\x01h\x02Ntq\x02" * 5000 + b"h\x00h\x02R.",
        "_rebuild_from_type_v2 called with",
    ),
    "copied keys": (
        b"}(" + b"N" * 1000 + b"tq\x000" + b"h\x00Ns" * 10_000 + b".", "far more operations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_pickles_refused(name, tmp_path):
    body, reason = BAD_PICKLES[name]
    start = time.perf_counter()
    assert reason in refusal(write_pickle(tmp_path / "bad.pt", b"\x80\x04" + body))
    assert time.perf_counter() - start < 10


def test_what_is_popped_is_gone():
    for body in (b"](0K\x01K\x020a.", b"](K\x02K\x031K\x01a.", b"](K\x02(0K\x010e."):
        tree, storages = load(io.BytesIO(b"\x80\x02" + body))
        assert tree in ([1], [2]) and storages == {}
        assert (tree == [2]) == body.endswith(b"e.")


def test_views_of_storages_refused():
    old_view = Global("torch", "CharStorage"), "0", "cpu", 2, ("1", 0, 1)
    body = torch_writer.dumps(("storage", *old_view))[0][:-1] + b"Q."
    with pytest.raises(AsdjaxError, match="a storage that"):
        load(io.BytesIO(body))


# Placeholders: objects of other libraries beside the weights.

CONFIG = Global("omegaconf.dictconfig", "DictConfig")


def test_placeholders_outside_the_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, weights = tmp_path / "lightning.ckpt", np.arange(6, dtype=np.float32)
    node = Call(Global("omegaconf.nodes", "AnyNode"), (), {"_val": 3, "w": weights}, new=True)
    bad = Call(Global("posix", "system"), ("touch GOLDEN_PWNED_MARKER",))
    tree = {
        "state_dict": OrderedDict(w=weights, p=parameter(weights)),
        "hyper_parameters": Call(CONFIG, ((1, {"a": node}),), {"_content": [node]}, new=True),
        "callbacks": {Call(Global("enum", "Enum"), (1,)): bad, ("a", 1): [CONFIG]},
        "epoch": 3,
    }
    write(path, tree)
    assert "'omegaconf.dictconfig.DictConfig'" in refusal(path)
    result = read(path, placeholders_outside="state_dict")
    assert list(result) == list(tree) and result["epoch"] == 3
    assert all(same_bits(array, weights) for array in result["state_dict"].values())
    config = result["hyper_parameters"]
    assert type(config) is Placeholder
    assert (config.module, config.name) == (CONFIG.module, CONFIG.name)
    assert config.args[0][1]["a"].state["_val"] == 3 and "_content" in config.state
    ((key, called), (pair, (cls,))) = result["callbacks"].items()
    assert type(key) is Placeholder and pair == ("a", 1) and repr(key) == "Placeholder(enum.Enum)"
    assert (called.module, called.args) == ("posix", ("touch GOLDEN_PWNED_MARKER",))
    assert cls.args is None and not callable(cls)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_placeholders_record_what_they_would_hold(tmp_path):
    body = (
        b"\x80\x04}(\x8c\x05othercm\nDeque\n)\x81(K\x01K\x02eK\x03a(K\x04K\x05uK\x06K\x07s"
        b"\x8c\x01wcm\nNew\n)}\x92\x8c\x0astate_dict}u."
    )
    result = read(write_pickle(tmp_path / "some.pt", body), placeholders_outside="state_dict")
    assert result["other"].items == [1, 2, 3, 4, 5, 6, 7] and result["w"].args == ((), {})


@pytest.mark.parametrize(
    "inside",
    [
        {"w": Call(CONFIG, ())},
        {"w": [({"deep": CONFIG},)]},
        {Call(CONFIG, ()): 1},
        {("a", Call(CONFIG, ())): 1},
        Call(CONFIG, ()),
        {"w": Call(Global("torch._utils", "_rebuild_parameter"), (Call(CONFIG, ()), True, {}))},
        {"w": crafted(offset=Call(CONFIG, ()))},
        {"w": crafted(storage=Call(CONFIG, ()))},
        {"w": crafted(metadata=Call(CONFIG, ()))},
    ],
)  # fmt: skip
def test_placeholders_refused_inside_the_weights(tmp_path, inside):
    write(tmp_path / "bad.ckpt", {"state_dict": inside, "cfg": Call(CONFIG, ())})
    sentence = refusal(tmp_path / "bad.ckpt", placeholders_outside="state_dict")
    assert "DictConfig' among its weights" in sentence or "damaged" in sentence


def test_placeholders_need_the_key(tmp_path):
    for tree in ({"model": 1}, Call(CONFIG, ()), [1]):
        write(tmp_path / "other.ckpt", tree)
        sentence = refusal(tmp_path / "other.ckpt", placeholders_outside="state_dict")
        assert sentence == "has no state_dict: choose another checkpoint"
