"""Hostile model files: python -m tests.hostile.make_model_corpus FOLDER

Every file lies, unfolds, leads outside, or is a program under another name. Those that could run code would leave a
marker file at the path in the environment variable DISTILLERY_MARKER, which must never appear.
"""

import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

MARKER = "DISTILLERY_MARKER"
ENDINGS = (".safetensors", ".onnx", ".npz")
Files = Iterator[tuple[str, bytes]]


class Payload:
    """Unpickled, it would write the marker file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f'touch "${MARKER}"',)


def headed(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with this header, right or wrong."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    return headed(json.dumps(tensors).encode(), data)


def of_safetensors() -> Files:
    """Headers that lie."""
    whole = json.dumps({"a": tensor([1], 0, 4)}).encode()
    for name, length in (("2_64", 2**64 - 1), ("2_63", 2**63), ("11_mib", 11 << 20), ("beyond", 400), ("zero", 0)):
        yield f"length_{name}", headed(whole, bytes(4), length=length)
    yield "length_one", headed(b"{", b"", length=1)
    yield "cut_length", headed(whole)[:5] + b"{"
    lies: dict[str, tuple[dict[str, Any], int]] = {
        "shape_2_63": ({"a": tensor([2**63], 0, 4)}, 4),
        "shape_overflows": ({"a": tensor([2**32, 2**32], 0, 0)}, 0),
        "shape_overflows_to_four": ({"a": tensor([2**62, 4, 1], 0, 4)}, 4),
        "shape_negative": ({"a": tensor([-1], 0, 4)}, 4),
        "shape_fraction": ({"a": tensor([1.5], 0, 4)}, 4),
        "shape_text": ({"a": tensor("1", 0, 4)}, 4),
        "shape_true": ({"a": tensor([True], 0, 4)}, 4),
        "shape_of_many_axes": ({"a": tensor([1] * 5000, 0, 4)}, 4),
        "offset_2_64": ({"a": tensor([1], 2**64 - 4, 2**64)}, 4),
        "offset_negative": ({"a": tensor([1], -4, 0)}, 4),
        "offset_backwards": ({"a": tensor([1], 4, 0)}, 4),
        "offset_beyond": ({"a": tensor([1], 4096, 4100)}, 4),
        "overlap": ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, 12),
        "same_bytes_twice": ({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, 8),
        "gap": ({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, 12),
        "short": ({"a": tensor([1000], 0, 4000)}, 10),
        "trailing": ({"a": tensor([1], 0, 4)}, 4000),
        "dtype_unknown": ({"a": tensor([1], 0, 4, "F4")}, 4),
        "dtype_object": ({"a": tensor([1], 0, 8, "O")}, 8),
        "dtype_number": ({"a": tensor([1], 0, 4, 7)}, 4),
        "no_tensors": ({}, 0),
        "not_an_entry": ({"a": [1, 2]}, 0),
        "more_than_an_entry": ({"a": {**tensor([1], 0, 4), "code": "x"}}, 4),
        "nul_in_a_name": ({"a\0b": tensor([1], 0, 4)}, 4),
        "name_without_end": ({"a" * 100_000: tensor([1], 0, 4)}, 4),
        "metadata_no_texts": ({"__metadata__": {"a": {"b": 1}}, "a": tensor([1], 0, 4)}, 4),
        "metadata_a_list": ({"__metadata__": ["x"], "a": tensor([1], 0, 4)}, 4),
        "metadata_huge": ({"__metadata__": {"a": "x" * (2 << 20)}, "a": tensor([1], 0, 4)}, 4),
        "metadata_many": ({"__metadata__": {str(at): "" for at in range(5000)}, "a": tensor([1], 0, 4)}, 4),
        "too_many_tensors": ({f"{at}": tensor([0], 0, 0) for at in range(100_001)}, 0),
    }
    for name, (tensors, size) in lies.items():
        yield name, safetensors(tensors, bytes(size))
    entry = json.dumps(tensor([1], 0, 4))
    texts = {
        "name_twice": f'{{"a":{entry},"a":{entry}}}',
        "key_twice": '{"a":{"dtype":"F32","dtype":"I64","shape":[1],"data_offsets":[0,4]}}',
        "nested": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        "nested_objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
        "not_a_number": '{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
        "infinite": '{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}',
        "digits": '{"a":{"dtype":"F32","shape":[' + "9" * 1_000_000 + '],"data_offsets":[0,4]}}',
        "many_empty_lists": '{"a":[' + "[]," * 3_000_000 + "[]]}",
        "no_end": '{"a":' + entry,
    }
    for name, text in texts.items():
        yield name, headed(text.encode(), bytes(4))
    yield "no_utf8", headed(b'{"\xff\xfe":1}', bytes(4))


def graph(nodes: list[Any], **more: Any) -> bytes:
    """An ONNX graph from images [batch, 4] to `y`."""
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, more.pop("shape", ["batch", 4]))
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "k"])
    made = helper.make_graph(nodes, "g", [images], [told], initializer=more.pop("constants", []))
    opsets = more.pop("opsets", [helper.make_opsetid("", 17)])
    model = helper.make_model(made, opset_imports=opsets, ir_version=9, **more)
    return bytes(model.SerializeToString())


def node(kind: str, given: list[str], told: list[str], **more: Any) -> Any:
    return helper.make_node(kind, given, told, **more)


def numbers(name: str, values: list[int]) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


PASSED = node("Identity", ["x"], ["y"])


def of_onnx() -> Files:
    """Graphs that lead outside, run other code, never end, or unfold."""
    for name, place in (
        ("traversal", "../../../../etc/passwd"), ("absolute", "/etc/passwd"), ("symlink", "link"), ("url", "http://[::1]/x"),
    ):  # fmt: skip
        far = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
        far.ClearField("float_data")
        far.data_location = TensorProto.EXTERNAL
        far.external_data.add(key="location", value=place)
        yield f"external_{name}", graph([node("Add", ["x", "w"], ["y"])], constants=[far])
        held = node("Constant", [], ["w"], value=far)
        yield f"external_{name}_in_a_node", graph([held, node("Add", ["x", "w"], ["y"])])
    for domain in ("com.microsoft", "custom", "ai.onnx.contrib", "ai.onnx.training", "pkg.onnxscript.torch_lib"):
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
        yield f"domain_{domain}", graph([node("PyOp", ["x"], ["y"], domain=domain)], opsets=opsets)
    yield "domain_unannounced", graph([node("PyOp", ["x"], ["y"], domain="hidden")])
    again = helper.make_function(
        "f", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="f")], [helper.make_opsetid("f", 1)]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    yield "function_recurses", graph([node("F", ["x"], ["y"], domain="f")], opsets=opsets, functions=[again])
    own = helper.make_function("", "Identity", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)])
    yield "function_shadows", graph([PASSED], functions=[own])
    yield from _unfolding()
    yield from _endless()
    yield from _lying_tensors()
    yield from _trees()


def _unfolding() -> Files:
    one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    filled = node("ConstantOfShape", ["s"], ["c"], value=one)
    for name, shape in (("8_gib", [2**31]), ("2_40", [2**20, 2**20]), ("2_62", [2**62]), ("negative", [-1])):
        summed = [filled, node("ReduceSum", ["c"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]
        yield f"constant_of_shape_{name}", graph(summed, constants=[numbers("s", shape)])
    steps = [node("Mul", ["s", "s"], ["t"]), node("Mul", ["t", "t"], ["u"]), node("ConstantOfShape", ["u"], ["y"])]
    yield "constant_of_shape_computed", graph(steps, constants=[numbers("s", [300, 300])])
    for name, kind, given in (("expand", "Expand", [2**30, 4]), ("tile", "Tile", [2**30, 4])):
        yield name, graph([node(kind, ["x", "s"], ["y"])], constants=[numbers("s", given)])
    pads = numbers("s", [0, 0, 2**30, 2**30])
    yield "pad", graph([node("Pad", ["x", "s"], ["y"])], constants=[pads])
    limits = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in zip("abc", (0, 1e12, 1), strict=True)
    ]
    yield "range", graph([node("Range", ["a", "b", "c"], ["r"]), node("Add", ["x", "r"], ["y"])], constants=limits)
    ends = [numbers("d", [2**40]), helper.make_tensor("o", TensorProto.INT64, [2], [0, 1])]
    hot = node("OneHot", ["x", "d", "o"], ["h"])
    yield "one_hot", graph([hot, node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], constants=ends)
    long = [
        helper.make_tensor("a", TensorProto.FLOAT, [100_000, 1], bytes(400_000), raw=True),
        helper.make_tensor("b", TensorProto.FLOAT, [1, 100_000], bytes(400_000), raw=True),
    ]
    broad = [
        node("Add", ["a", "b"], ["c"]),
        node("ReduceSum", ["c"], ["d"], keepdims=0),
        node("Add", ["x", "d"], ["y"]),
    ]
    yield "broadcast", graph(broad, constants=long)
    scale = helper.make_tensor("f", TensorProto.FLOAT, [4], [1.0, 1.0, 1e5, 1e5])
    yield (
        "resize",
        graph([node("Resize", ["x", "", "f"], ["y"], mode="nearest")], constants=[scale], shape=["batch", 1, 64, 64]),
    )
    doubling = [node("Concat", [f"c{at}" if at else "x"] * 2, [f"c{at + 1}"], axis=1) for at in range(40)]
    yield "doubling", graph([*doubling, node("Identity", ["c40"], ["y"])])
    pointing = helper.make_sparse_tensor(
        helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]), numbers("i", [0]), [2**40]
    )
    yield "sparse_constant", graph([node("Constant", [], ["w"], sparse_value=pointing), PASSED])
    yield "random", graph([node("RandomNormal", [], ["y"], shape=[2**20, 2**20])])
    yield "fixed_batch_of_a_billion", graph([PASSED], shape=[2**30, 4])


def _endless() -> Files:
    yield "cycle", graph([node("Neg", ["b"], ["a"]), node("Neg", ["a"], ["b"]), PASSED])
    yield "cycle_of_one", graph([node("Neg", ["y"], ["y"])])
    yield "given_twice", graph([PASSED, node("Neg", ["x"], ["y"])])
    yield "output_of_nothing", graph([node("Neg", ["x"], ["z"])])
    chain = [node("Neg", [f"n{at}" if at else "x"], [f"n{at + 1}"]) for at in range(100_000)]
    yield "nodes_100_000", graph([*chain, node("Identity", ["n100000"], ["y"])])
    yield "nodes_10_001", graph([*chain[:10_000], node("Identity", ["n10000"], ["y"])])
    body = helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)])
    for _ in range(30):
        inner = node("If", ["c"], ["z"], then_branch=body, else_branch=body) if _ < 6 else None
        if inner is not None:
            body = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("z", 1, None)])
    true = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    yield "if_within_if", graph([node("If", ["c"], ["y"], then_branch=body, else_branch=body)], constants=[true])
    state = helper.make_graph(
        [node("Identity", ["going"], ["on"]), node("Identity", ["v"], ["w"])], "b",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("going", 9, []),
         helper.make_tensor_value_info("v", 1, None)],
        [helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("w", 1, None)],
    )  # fmt: skip
    most = helper.make_tensor("m", TensorProto.INT64, [], [2**62])
    yield "loop_without_end", graph([node("Loop", ["m", "c", "x"], ["y"], body=state)], constants=[most, true])
    deep = b""
    for _ in range(4000):  # a graph in an attribute of a node of a graph, and so on
        deep = _field(7, _field(1, _field(5, _field(6, deep)))) if len(deep) < 1 << 20 else deep
    yield "deep_messages", _field(8, b"\x10\x11") + deep
    yield "group_tags", _field(8, b"\x10\x11") + _field(7, b"\x0b" * 100_000)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(content), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + length + content


def _lying_tensors() -> Files:
    for name, dims in (
        ("2_40", [2**40]),
        ("2_63", [2**62, 2]),
        ("negative", [-4]),
        ("more", [400]),
        ("many_axes", [1] * 99),
    ):
        told = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
        del told.dims[:]
        told.dims.extend(dims)
        yield f"tensor_{name}", graph([node("Add", ["x", "w"], ["y"])], constants=[told])
    bare = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**33])
    yield "tensor_of_nothing", graph([node("Add", ["x", "w"], ["y"])], constants=[bare])
    parted = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
    parted.segment.begin, parted.segment.end = 0, 2**40
    yield "tensor_in_segments", graph([node("Add", ["x", "w"], ["y"])], constants=[parted])
    yield "empty_graph", graph([])
    yield "two_inputs", graph([node("Add", ["x", "z"], ["y"])])
    yield "cut_in_half", graph([PASSED] + [node("Neg", ["x"], [f"n{at}"]) for at in range(50)])[:400]


def _trees() -> Files:
    def forest(yes: list[int], no: list[int], modes: list[str]) -> bytes:
        count = len(yes)
        made = node(
            "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0] * count,
            nodes_nodeids=list(range(count)), nodes_featureids=[0] * count, nodes_values=[0.5] * count,
            nodes_modes=modes, nodes_truenodeids=yes, nodes_falsenodeids=no, target_ids=[0], target_nodeids=[count - 1],
            target_treeids=[0], target_weights=[1.0],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        return graph([made], opsets=opsets)

    yield "tree_leads_back", forest([1, 0, 0], [2, 2, 0], ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"])
    yield "tree_leads_to_itself", forest([0, 0], [1, 0], ["BRANCH_LEQ", "LEAF"])
    yield "tree_leads_nowhere", forest([7, 0], [1, 0], ["BRANCH_LEQ", "LEAF"])


def array(shape: Any, content: bytes, *, dtype: str = "<f4") -> bytes:
    """A `.npy` member with this header, right or wrong."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def npz(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def of_tables() -> Files:
    """Tables with lying headers, Python objects, and more inside than outside."""
    ids = array("(4,)", np.arange(4, dtype="<i8").tobytes(), dtype="<i8")
    good = array("(4, 3)", bytes(48))
    for name, member in (
        ("promises_more", array("(4, 3000000000)", bytes(48))), ("promises_less", array("(4, 2)", bytes(48))),
        ("shape_2_63", array("(9223372036854775808, 1)", bytes(48))), ("negative", array("(-4, -3)", bytes(48))),
        ("objects", array("(4, 3)", pickle.dumps(Payload()), dtype="|O")),
        ("code_in_header", array("(__import__('os'),)", b"")),
        ("one_axis", array("(12,)", bytes(48))), ("three_axes", array("(4, 3, 1)", bytes(48))),
        ("wide_strings", array("(1, 1)", bytes(40_000), dtype="<U10000")),
        ("not_finite", array("(4, 3)", np.full(12, np.inf, dtype="<f4").tobytes())), ("no_array", b"logits"),
    ):  # fmt: skip
        yield f"table_{name}", npz({"ids.npy": ids, "logits.npy": member})
    yield "table_bomb", npz({"ids.npy": ids, "logits.npy": array("(4, 25000000)", bytes(400_000_000))})
    yield "table_without_ids", npz({"logits.npy": good})
    yield "table_of_many", npz({f"{at}.npy": good for at in range(2000)})
    yield "table_of_objects_alone", npz({"ids.npy": array("(1,)", pickle.dumps([Payload()]), dtype="|O")})
    whole = bytearray(npz({"ids.npy": ids, "logits.npy": good}, zipfile.ZIP_STORED))
    at = whole.rindex(b"PK\x01\x02")
    whole[at + 42 : at + 46] = struct.pack("<I", 0)
    yield "table_overlap", bytes(whole)
    lying = bytearray(npz({"ids.npy": ids, "logits.npy": good}))
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    yield "table_lying_size", bytes(lying)
    yield "table_cut", npz({"ids.npy": ids, "logits.npy": good})[:-30]
    yield "parquet_footer_lies", b"PAR1" + bytes(40) + struct.pack("<I", 2**31) + b"PAR1"
    yield "parquet_of_noise", b"PAR1" + bytes(range(256)) * 4 + struct.pack("<I", 900) + b"PAR1"
    yield "parquet_bomb", _parquet_bomb()


def _parquet_bomb() -> bytes:
    import pyarrow as arrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    rows = arrow.table({"ids": arrow.array(np.zeros(20_000_000, dtype=np.int64))})
    parquet.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def of_programs() -> Files:
    """What runs code when it is loaded, under the names of what does not."""
    payload = pickle.dumps(Payload())
    yield "pickle", payload
    yield "pickle_protocol_0", pickle.dumps(Payload(), protocol=0)
    yield "pickle_zlib", zlib.compress(payload)
    yield "torch_zip", npz({"archive/data.pkl": payload, "archive/version": b"3", "archive/data/0": bytes(16)})
    yield (
        "torchscript",
        npz({"m/data.pkl": payload, "m/constants.pkl": payload, "m/code/__torch__.py": b"def forward(x): ..."}),
    )
    yield "torch_export", npz({"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": payload})
    yield "torch_package", npz({"p/.data/extern_modules": b"os", "p/model.pkl": payload})
    yield "joblib", b"\x80\x04\x95" + payload[3:] + b"joblib.numpy_pickle"
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(2000)
    yield "keras", npz({"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"})
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(500)
    yield "script", b'#!/bin/sh\ntouch "$DISTILLERY_MARKER"\n'
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    yield "torch_tar", buffer.getvalue()
    inside = safetensors({"a": tensor([1], 0, 4)}, bytes(4))
    yield "polyglot_safetensors_zip", inside + npz({"archive/data.pkl": payload})
    yield "polyglot_onnx_zip", graph([PASSED]) + npz({"archive/data.pkl": payload})
    yield "html", b"<!doctype html><script>alert(1)</script>"
    yield "empty", b""
    yield "nothing_but_zeros", bytes(4096)


def corpus() -> Files:
    """Every hostile file: its name and its bytes."""
    for ending, made in ((".safetensors", of_safetensors), (".onnx", of_onnx), (".npz", of_tables)):
        yield from ((f"{name}{ending}", content) for name, content in made())
    for at, (name, content) in enumerate(of_programs()):
        yield f"{name}{ENDINGS[at % len(ENDINGS)]}", content


def write(folder: Path) -> list[Path]:
    """Write the corpus; gives the paths. A link to a file outside lies beside those that name one."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in corpus():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    link = folder / "link"
    if not link.is_symlink():
        link.symlink_to("/etc/passwd")
    return paths


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        print(written.name, written.stat().st_size)
