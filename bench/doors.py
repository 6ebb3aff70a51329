"""The doors through which files come into neuroevo, and hostile files for each: what `bench/fuzz.py` draws.

A door takes Hypothesis's `draw` and a folder, writes files there, and returns what is done with them: commands of
neuroevo, or functions. A few files are made by hand, where a random one would never come near.
"""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import torch
import yaml
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image
from subjects import PHOTOS, SIZES, TINY, sets

from neuroevo import config
from neuroevo.data import arrays, pictures
from neuroevo.data.pixels import pixels
from neuroevo.networks import onnxfiles, onnxgraphs, weightfiles
from neuroevo.report import report
from neuroevo.storage import checkpoint, hdf5, rundir

Draw = Callable[[Any], Any]
Action = list[str] | Callable[[], object]

CANARY = "a_pickle_ran"  # a file that a hostile pickle makes
NAMES = st.text(st.sampled_from("abz09.-_ =+@\"'<>&\\/\x00\x1b\r\n\t\u202e\udc80\u732b\U0001f600"), max_size=12)
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES)
ODD = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
NEEDED = {
    "npz": ("rows",),
    "weights": ("photos",),
    "checkpoints": ("run", "photos"),
    "lines": ("run", "islands"),
    "tables": ("bench", "tune", "tune.yaml", "bench.yaml"),
    "champions": ("run", "onnx", "photos"),
    "graphs": ("model.onnx",),
}
CROOKED = "data={name: image_folder, root: tree, broken: skip}"


ATTRIBUTES = [0, -1, 2**62, 1.5, "", "x", "[]", "{}", "null", "1e999", "[" * 2000, "\x1b[2J", '{"a": [1, null]}']
LAUGHS = "".join(f"b{i + 1}: &b{i + 1} [*b{i}, *b{i}]\n" for i in range(60))  # 2**60 values
HARD = [  # to read as YAML
    f"b0: &b0 [x]\n{LAUGHS}", "[" * 5000, "{a: " * 3000, "- " * 50_000, "data: !!python/name:os.system", "&a [*a]",
    f"a: !!python/object/apply:os.system ['touch {CANARY}']", "? {a: b}\n: c", "data: {name: digits}\n" * 2,
    "%YAML 9.9\n---\na", "x: " + "9" * 100_000, "seed: 0x" + "f" * 4000, "<<: [1]", "a: " + "&x " * 9, "\ufeff{}",
    "\x00", "--- a\n--- b",
]  # fmt: skip
SET = [
    "0", "-1", "1e300", "nan", "[]", "{}", "null", "''", "x", "os:system", "9" * 30, "[1, 2]", "{name: x}", "true",
    "\x1b[2J", "../x", "/dev/zero", "~", "0.5", "3",
]  # fmt: skip


class Hostile:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def pickles() -> list[bytes]:
    """Return files that run code where somebody unpickles them."""
    found = [pickle.dumps(Hostile(), protocol) for protocol in (0, 2, 4)]
    for content in (Hostile(), {"state_dict": Hostile()}, {"w": torch.ones(2), "x": Hostile()}):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found.append(file.getvalue())
    for name in ("x", "y", "logits"):
        file = io.BytesIO()
        np.savez(file, **{"x": np.zeros((4, 3)), "y": np.arange(4) % 2, name: np.array([Hostile()], dtype=object)})
        found.append(file.getvalue())
    file = io.BytesIO()
    np.save(file, np.array([Hostile()], dtype=object), allow_pickle=True)
    return [*found, file.getvalue()]


PICKLES = pickles()


def mutate(draw: Draw, content: bytes) -> bytes:
    """Return bytes with some of them changed."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "number", "cut", "insert", "zeros", "again"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            form = draw(st.sampled_from(["<I", ">I", "<H", ">H", "<Q"]))
            value = draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1]))
            piece = struct.pack(form, value & (2 ** (8 * struct.calcsize(form)) - 1))
            data[at : at + len(piece)] = piece
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == "zeros":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data[at:at] = data[at : at + 200]
    return bytes(data)


def images(draw: Draw, place: Path) -> list[Action]:
    """Images of all formats and modes, animated, with EXIF and profiles, some of them damaged, and bombs."""
    mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB", "HSV"]))
    form = draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM", "TGA", "PCX", "SGI", "JPEG2000",
                                 "AVIF", "MPO", "DIB", "ICO"]))  # fmt: skip
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    if draw(st.integers(0, 60)) == 37:  # a bomb, a small file of many pixels; Hypothesis likes 0, and these take long
        size, mode, form = draw(st.sampled_from([(13_000, 13_000), (30_000, 30_000), (178_000_000, 1)])), "1", "PNG"
        mode = draw(st.sampled_from(["1", "L", "RGB", "I;16"])) if size[0] * size[1] < 2e8 else "1"
    picture = Image.new(mode, size)
    if draw(st.booleans()) and size[0] * size[1] < 2000:  # the same each time that Hypothesis draws the same
        noise = random.Random(draw(st.integers(0, 99))).randbytes(size[0] * size[1])
        picture = Image.frombytes("L", size, noise).convert(mode if mode not in ("I;16", "LAB", "HSV", "PA") else "L")
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 65_535))
        more["exif"] = exif.tobytes() if draw(st.booleans()) else draw(st.binary(max_size=40))
    if draw(st.booleans()):
        more["icc_profile"] = draw(st.binary(max_size=200))
    if draw(st.booleans()) and size[0] * size[1] < 2000 and form in ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"):
        more |= {"save_all": True, "append_images": [picture] * draw(st.integers(0, 3))}
    file = io.BytesIO()
    try:
        picture.save(file, form, **more)
    except Exception:  # this format has no such mode, or the frames of a bomb don't fit into memory
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
    content = draw(st.sampled_from(PICKLES)) if draw(st.integers(0, 50)) == 0 else mutate(draw, file.getvalue())
    (place / "x.png").write_bytes(content)

    def see() -> None:
        try:
            found = pictures.read("x.png")
        except pictures.Unreadable as error:
            print(error)
        else:
            channels = draw_channels if isinstance(found, Image.Image) else found.shape[2]
            pixels(found, channels, (16, 16), Image.Resampling.BILINEAR)

    draw_channels = draw(st.sampled_from([1, 3, 4]))
    return [see]


def npz(draw: Draw, place: Path) -> list[Action]:
    """Files of arrays of any type and shape, with lying headers, and pickles in them."""
    if draw(st.integers(0, 20)) == 0:
        (place / "f.npz").write_bytes(draw(st.sampled_from(PICKLES)))
    else:
        kinds = arrays_of.scalar_dtypes() | arrays_of.unicode_string_dtypes() | arrays_of.byte_string_dtypes()
        names = draw(st.lists(st.sampled_from(["x", "y", "split", "classes", "groups", "logits", "z"]), max_size=5))
        n = draw(st.integers(0, 20))
        given: dict[str, Any] = {}
        for name in names:
            shape = draw(st.one_of(st.just((n,)), st.just((n, 3)), st.just((n, 6)), arrays_of.array_shapes(max_dims=4)))
            given[name] = draw(arrays_of.arrays(draw(kinds), shape, fill=st.nothing() if n < 4 else None))
        if draw(st.booleans()):
            given |= {"x": np.random.default_rng(n).normal(size=(n, 6)).astype("f4"), "y": np.arange(n) % 3}
        file = io.BytesIO()
        (np.savez_compressed if draw(st.booleans()) else np.savez)(file, **given)
        content = file.getvalue()
        if draw(st.booleans()):
            content = lie(draw, content)
        (place / "f.npz").write_bytes(mutate(draw, content) if draw(st.booleans()) else content)
    actions: list[Action] = [
        partial(arrays.read, "f.npz"),
        partial(arrays.read_labelled, "f.npz", ("0", "1", "2")),
        ["decide", "f.npz", "--metric", "macro_f1", "--folds", "2"],
        ["predict", "rows", "f.npz"],
        ["evaluate", "rows", "--data", "f.npz", "--predictions", "p.csv"],
    ]
    return actions[: draw(st.sampled_from([2, 2, 3, 4, 5]))]


def lie(draw: Draw, content: bytes) -> bytes:
    """Return an .npz file in which a header says other than there is."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as read, zipfile.ZipFile(out, "w") as write:
        for name in read.namelist():
            member = read.read(name)
            if draw(st.booleans()):
                kind = draw(st.sampled_from(["<f4", "|O", "<U9999999", "|V0", "<M8[s]", "x", "<f8", "[('a','<f4')]"]))
                shape = draw(st.sampled_from(["(2**40,)", "(99999999999,)", "(-1,)", "()", "(3, 0)", "(1e9,)", "None"]))
                header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
                member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + member[128:]
            write.writestr(name, member)
    return out.getvalue()


def weights(draw: Draw, place: Path) -> list[Action]:
    """Files of weights: safetensors whose header lies, and torch's with pickles, or damaged."""
    if draw(st.booleans()):
        names = st.sampled_from(["head.weight", "head.bias", "x", "__metadata__"])
        entry = st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F8_E4M3", "BOOL", "X"]),
                "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**20, 2**40, 2**62, -1]), max_size=4),
                "data_offsets": st.lists(st.sampled_from([0, 4, 8, 24, 2**40, -1]), min_size=1, max_size=3),
            }
        )
        about = {"__metadata__": {"neuroevo": json.dumps(draw(ODD), default=str)}} if draw(st.booleans()) else {}
        header = json.dumps({**draw(st.dictionaries(names, entry | ODD, max_size=3)), **about}).encode()
        length = draw(st.sampled_from([len(header), len(header), len(header), 0, 2**63, 10**8, len(header) + 1]))
        content = struct.pack("<Q", length) + header + bytes(draw(st.sampled_from([0, 4, 24, 4000])))
        name = "w.safetensors"
    else:
        name = draw(st.sampled_from(["w.pt", "w.pth", "w.bin", "w.safetensors"]))
        kind = draw(st.sampled_from(["pickle", "saved", "ops", "views"]))
        if kind == "pickle":
            content = draw(st.sampled_from(PICKLES))
        elif kind == "ops":
            ops = st.sampled_from(
                [op.encode("latin-1") for op in "(.0123FIJKLMNQRSTUVXabcdeghijlopqrstu}]\x80\x81\x85\x93"]
            )
            content = b"\x80\x02" + b"".join(draw(st.lists(ops | st.binary(max_size=4), max_size=30)))
        else:
            tensor = torch.ones(3)
            if kind == "views":  # which say that they are larger than what is there
                tensor = draw(st.sampled_from([torch.ones(1).expand(10**6, 10**6), torch.ones(2, device="meta"),
                                               torch.ones(3).to_sparse(), torch.quantize_per_tensor(torch.ones(3), 1, 0,
                                               torch.qint8), torch.ones(3, dtype=torch.complex64)]))  # fmt: skip
            file = io.BytesIO()
            torch.save({"state_dict": {"a.weight": tensor, "b": torch.zeros(2, 2)}, "epoch": draw(ODD)}, file)
            content = mutate(draw, file.getvalue())
    (place / name).write_bytes(content)
    path = Path(name)
    command = ["run", *sets([PHOTOS, *SIZES, f"backbone={{name: timm/test_resnet, weights: {name}}}",
                             "data.image_size=32"]), "--out", "begun"]  # fmt: skip
    start = ["run", *sets([PHOTOS, *TINY, *SIZES, f"genome.from=[{name}]"]), "--out", "begun2"]
    actions: list[Action] = [lambda: weightfiles.read_weights(path), lambda: weightfiles.read_named(path)]
    return [*actions, *draw(st.sampled_from([[], [], [], [command], [start]]))]


def graphs(draw: Draw, place: Path) -> list[Action]:
    """ONNX files with other fields, with numbers in other files, and damaged."""
    content = (place / "model.onnx").read_bytes()
    if draw(st.booleans()):
        proto = onnx.ModelProto.FromString(content)
        for _ in range(draw(st.integers(1, 3))):
            node, item = draw(st.sampled_from([*proto.graph.node])), draw(st.sampled_from([*proto.graph.initializer]))
            kind = draw(
                st.sampled_from(["type", "dims", "raw", "elsewhere", "input", "output", "op", "cycle", "shape"])
            )
            if kind == "type":
                item.data_type = draw(st.integers(0, 25))
            elif kind == "dims":
                item.dims[:] = draw(st.lists(st.sampled_from([0, 1, 3, 6, 2**31, 2**62, -1]), max_size=5))
            elif kind == "raw":
                item.raw_data = draw(st.binary(max_size=80))
            elif kind == "elsewhere":
                item.data_location = onnx.TensorProto.EXTERNAL
                for key, value in (("location", draw(st.sampled_from(["../secret", "/etc/passwd", "f.onnx", "", "x"]))),
                                   ("offset", str(draw(NUMBERS))), ("length", str(draw(NUMBERS)))):  # fmt: skip
                    entry = item.external_data.add()
                    entry.key, entry.value = key, value
            elif kind == "input" and node.input:
                node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(["logits", "a", "", "f"]))
            elif kind == "output":
                node.output[0] = draw(st.sampled_from(["logits", "a", "", "images"]))
            elif kind == "op":
                node.op_type = draw(st.sampled_from(["Loop", "If", "Conv", "Reshape", "Expand", "Tile", "Nothing"]))
            elif kind == "cycle" and node.input:
                node.input[0] = node.output[0]
            else:
                dims = proto.graph.input[0].type.tensor_type.shape.dim
                dims[draw(st.integers(0, 3))].dim_value = draw(st.sampled_from([0, 1, 2, 8, 2**31, 2**40, -5]))
        content = proto.SerializeToString()
    else:
        content = mutate(draw, content)
    (place / "f.onnx").write_bytes(draw(st.sampled_from(PICKLES)) if draw(st.integers(0, 30)) == 0 else content)

    def use() -> None:
        network = onnxfiles.OnnxNetwork(onnxgraphs.read("f.onnx"), "f.onnx")
        network(torch.zeros(2, 3, 8, 8))
        network.divide([next(iter(dict(network.named_parameters())))], torch.zeros(2, 3, 8, 8))

    return [use, lambda: onnxfiles.of_bytes(content, "bytes")]


def checkpoints(draw: Draw, place: Path) -> list[Action]:
    """Checkpoints with another content, sealed again, so that only what they hold tells."""
    path = max((place / "run" / "checkpoints").glob("*.h5"))
    for other in path.parent.glob("*.h5"):
        if other != path:
            other.unlink()
    if draw(st.integers(0, 20)) == 0:
        path.write_bytes(draw(st.sampled_from(PICKLES)))
    elif draw(st.booleans()):
        with h5py.File(path, "r+") as file:
            for _ in range(draw(st.integers(1, 3))):
                change_hdf5(draw, file)
    else:
        path.write_bytes(mutate(draw, path.read_bytes()))
    content = path.read_bytes()
    if draw(st.integers(0, 5)):
        content = seal(content)
    path.write_bytes(content)
    more = [["evaluate", "run"], ["resume", "run", "--set", "budget.generations=7"],
            ["export", "run", "--out", "t.safetensors"], ["report", "run", "--formats", "svg"],
            ["predict", "run", "photos/cat"]]  # fmt: skip
    return [
        partial(checkpoint.read, path),
        ["inspect", "run"],
        *draw(st.sampled_from([[], *([each] for each in more)])),
    ]


def seal(content: bytes) -> bytes:
    """Return a checkpoint's bytes with the checksum that they should have."""
    from hashlib import sha256

    sha = sha256(content[hdf5.USER_BLOCK :]).hexdigest().encode()
    return (checkpoint.MARK + sha + b"\n").ljust(hdf5.USER_BLOCK, b"\0") + content[hdf5.USER_BLOCK :]


def change_hdf5(draw: Draw, file: Any) -> None:
    """Change something in an HDF5 file."""
    names: list[str] = []
    file.visit(names.append)
    name = draw(st.sampled_from([name for name in names if file.get(name, getclass=True) is not None]))
    kind = draw(st.sampled_from(["attribute", "gone", "numbers", "shape", "type", "link", "external", "deep", "huge"]))
    if kind == "attribute":
        owner = draw(st.sampled_from(["/", "champion"]))
        if owner in file and len(file[owner].attrs):
            key = draw(st.sampled_from(sorted(file[owner].attrs)))
            file[owner].attrs[key] = draw(st.sampled_from([*ATTRIBUTES, str(file[owner].attrs[key])[:-1]]))
    elif kind == "gone":
        del file[name]
    elif isinstance(file[name], h5py.Dataset) and not file[name].external and file[name].size < 10**6:
        data = file[name][()]
        path = name
        del file[name]
        if kind == "numbers":
            filled = np.full(data.shape, draw(st.sampled_from([0, 1, -1, 127]))).astype(data.dtype)
            file[path] = np.full_like(data, np.nan) if data.dtype.kind == "f" and draw(st.booleans()) else filled
        elif kind == "shape":
            file[path] = np.resize(data, draw(st.lists(st.integers(0, 5), max_size=3)))
        elif kind == "type":
            file[path] = data.astype(draw(st.sampled_from(["f8", "i1", "u8", "bool", "f2", "S4"])))
        elif kind == "link":
            file[path] = draw(
                st.sampled_from([h5py.SoftLink("/"), h5py.SoftLink("/no"), h5py.ExternalLink("x.h5", "/")])
            )
        elif kind == "external":
            file.create_dataset(path, data.shape, data.dtype, external=[("run/run.log", 0, data.nbytes or 1)])
        elif kind == "deep":
            file["/".join(["a"] * draw(st.integers(30, 500)))] = data
        else:
            file.create_dataset(path, (2**31, 2**10), "f4", chunks=(1024, 1024))


def champions(draw: Draw, place: Path) -> list[Action]:
    """Files of champions, sealed, that hold something else, and pickles in their place."""
    name = draw(st.sampled_from(["run/champion.safetensors", "run/network.safetensors", "onnx/network.safetensors",
                                 "onnx/champion.onnx", "onnx/champion.safetensors"]))  # fmt: skip
    path = place / name
    if path.suffix == ".onnx" or draw(st.integers(0, 10)) == 0:
        path.write_bytes(draw(st.sampled_from(PICKLES)) if draw(st.booleans()) else mutate(draw, path.read_bytes()))
    else:
        state, about = weightfiles.read_safetensors(path)
        key = draw(st.sampled_from(sorted(state)))
        value = draw(st.sampled_from(["gone", "shape", "type", "nan"]))
        if value == "gone":
            del state[key]
        elif value == "shape":
            state[key] = state[key].flatten()[:1].repeat(draw(st.integers(0, 9)))
        elif value == "type":
            state[key] = state[key].to(draw(st.sampled_from([torch.float16, torch.int64, torch.uint8])))
        elif state[key].is_floating_point():
            state[key] = state[key] * float("nan")
        if about and draw(st.booleans()):
            about[draw(st.sampled_from(sorted(about)))] = draw(st.sampled_from([None, 0, "x", [], {}, [1, "\x1b[2J"]]))
        path.write_bytes(weightfiles.seal(state, about))
    run = name.partition("/")[0]
    if draw(st.booleans()) and run == "run":
        (place / "run" / "network.safetensors").unlink()
    return [["predict", run, "photos/cat"], *draw(st.sampled_from([[], [["evaluate", run]], [["inspect", run]]]))]


def lines(draw: Draw, place: Path) -> list[Action]:
    """Draw the text files of a run, of odd values under their own keys, or of odd bytes."""
    run = draw(st.sampled_from(["run", "islands"]))
    folder = place / run
    files = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".jsonl", ".json", ".yaml", ".csv", ".log")
    )
    for name in draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
        path = folder / name
        text = path.read_text(errors="replace")
        if path.suffix in (".csv", ".log") or draw(st.integers(0, 3)) == 0:
            content = draw(st.sampled_from(PICKLES)) if draw(st.integers(0, 20)) == 0 else mutate(draw, text.encode())
            path.write_bytes(content)
            continue
        if path.suffix == ".jsonl":
            found = [json.loads(line) for line in text.splitlines()]
            change(draw, found)
            path.write_text("".join(json.dumps(line) + "\n" for line in found))
        else:
            value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
            change(draw, value)
            if path.name == rundir.RESULT:
                value["checksum"] = rundir.checksum({k: v for k, v in value.items() if k != "checksum"})
            path.write_text(json.dumps(value) if path.suffix == ".json" else yaml.safe_dump(value))
    more = [["log", run, "--to", "csv"], ["evaluate", run], ["export", run, "--out", "t.safetensors"], ["resume", run]]
    page = partial(report.render, Path(run), None)
    return [["inspect", run], *draw(st.sampled_from([[], [], [page], [page], *([each] for each in more)]))]


def change(draw: Draw, value: Any) -> None:
    """Put something odd somewhere into a plain value."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        for key in inner if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                walk(inner[key])

    walk(value)
    if places:
        owner, key = draw(st.sampled_from(places))
        owner[key] = draw(ODD)


def tables(draw: Draw, place: Path) -> list[Action]:
    """Draw the tables of a benchmark and of a search, and what lies beside them."""
    name = draw(st.sampled_from(["bench", "tune"]))
    files = sorted(path for path in (place / name).glob("*") if path.is_file() and path.name != ".lock")
    path = draw(st.sampled_from(files))
    text = path.read_bytes()
    rows = [line.split(b",") for line in text.splitlines()]
    if path.suffix == ".csv" and len(rows) > 1 and draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = str(draw(SCALARS)).encode(errors="surrogateescape")
        path.write_bytes(b"\n".join(b",".join(row) for row in rows) + b"\n")
    else:
        path.write_bytes(mutate(draw, text))
    again = {"bench": ["bench", "bench.yaml", "--arms", "sgd,random", "--seeds", "1", "--out", "bench"],
             "tune": ["resume", "tune"]}[name]  # fmt: skip
    return [partial(report.render, Path(name), None), *draw(st.sampled_from([[], [], [again]]))]


def configs(draw: Draw, place: Path) -> list[Action]:
    """Configs with odd values under right and wrong keys, and YAML that is hard to read."""
    record = config.check(config.raw(None)).record()
    for _ in range(draw(st.integers(1, 3))):
        change(draw, record)
    text = draw(st.sampled_from([json.dumps(record), yaml.safe_dump(record, allow_unicode=True)]))
    if draw(st.integers(0, 3)) == 0:
        text = draw(st.sampled_from(HARD))
    (place / "c.yaml").write_bytes(mutate(draw, text.encode(errors="surrogatepass")))
    return [lambda: config.check(config.raw("c.yaml")), *draw(st.sampled_from([[], [], [], [["init", "c2.yaml"]]]))]


def settings(draw: Draw, place: Path) -> list[Action]:
    """Draw settings of runs that then begin: an odd value, or a text for one, under a key that there is."""
    keys: list[str] = []

    def walk(inner: Any, path: str) -> None:
        for key, value in inner.items():
            keys.append(f"{path}{key}")
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")

    walk(config.check(config.raw(None)).record(), "")
    odd = draw(st.sampled_from(SET))
    given = [f"{draw(st.sampled_from(keys))}={odd}"]
    base = ["data={name: digits, limit: 120}", *TINY, *SIZES]
    return [["validate", *sets([*base, *given])], *draw(st.sampled_from([[], [["run", *sets([*base, *given])]]]))]


def folders(draw: Draw, place: Path) -> list[Action]:
    """Class folders of odd names, with links, pipes and files that are no images in them."""
    names = st.text(st.sampled_from("ab0.-_ =+@\"'<>&\\$\x1b\r\n\t\u202e\udc80\u732b"), min_size=1, max_size=10)
    top = place / "tree"
    top.mkdir()
    classes = [
        *draw(st.lists(names, min_size=0, max_size=3)),
        "cat",
        draw(st.sampled_from(["train", "dog", "test", "=1+1"])),
    ]
    made = []
    for i, name in enumerate(classes):
        if name in (".", "..") or "/" in name:
            continue
        folder = top / os.fsdecode(os.fsencode(name))
        folder.mkdir(exist_ok=True)
        made.append(folder)
        for k in range(draw(st.sampled_from([8, 8, 9, 12, 1, 0]))):
            Image.new("L", (8, 8), 40 * i + k).save(folder / f"{k}.png")
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(made)) / draw(st.sampled_from(["x.png", "y", "\x1b[31m.png", "=x.png", "l"]))
        kind = draw(st.sampled_from(["fifo", "link up", "loop", "device", "text", "folder", "elsewhere"]))
        if os.path.lexists(path):
            continue
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "text":
            path.write_bytes(draw(st.sampled_from(PICKLES)))
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to({"link up": top, "loop": path, "device": "/dev/zero", "elsewhere": "/etc/passwd"}[kind])
    begin = ["run", *sets([CROOKED, *TINY, *SIZES]), "--out", "r"]
    after = [
        ["report", "r", "--formats", "svg"],
        ["predict", "r", "tree", "--out", "p.csv"],
        ["predict", "r", "tree"],
        ["evaluate", "r", "--data", "tree", "--predictions", "q.csv"],
        ["export", "r", "--out", "c.safetensors"],
    ]
    return [begin, draw(st.sampled_from(after))]


DOORS: dict[str, Callable[[Draw, Path], list[Action]]] = {
    door.__name__: door
    for door in (images, npz, weights, graphs, checkpoints, champions, lines, tables, configs, settings, folders)
}
