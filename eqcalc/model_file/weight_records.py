"""The weights of a model file, once: those that the program's records hold are named.

``weights.safetensors`` lets a later eqcalc build the network again without TorchScript. Nearly
all that it holds also lies in the archive as records of the program's tensors, bare numbers in
their order. A file therefore has an index, ``weights.index.json``: for each weight the record
with its bytes, its type and its shape. Weights that no record has, such as those that a fast
form of a network keeps in another order, stay in ``weights.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping

from safetensors import SafetensorError, deserialize

from eqcalc.model_file.entries import INDEX, WEIGHTS

__all__ = ["restore_weights", "share_weights"]

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
_ITEM_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1}


def share_weights(entries: dict[str, bytes]) -> dict[str, bytes]:
    """Return the entries of an archive with each weight that a record has named by the index.

    Parameters
    ----------
    entries : as :func:`eqcalc.model_file.entries.read_entries` returns them
    """
    name = f"extra/{WEIGHTS}"
    if name not in entries:
        return entries
    records = {content: key for key, content in entries.items() if key.startswith("data/")}
    index: dict[str, object] = {}
    left = {}
    for weight, stored in deserialize(entries[name]):
        content = bytes(stored["data"])
        if content and content in records:
            said = [records[content], stored["dtype"], list(stored["shape"])]
            index[weight] = [*said, hashlib.sha256(content).hexdigest()]
        else:
            left[weight] = (stored["dtype"], list(stored["shape"]), content)
    shared = {key: content for key, content in entries.items() if key != name}
    shared[f"extra/{INDEX}"] = json.dumps(index).encode()
    shared[name] = _as_safetensors(left)
    return shared


def restore_weights(entries: dict[str, bytes]) -> dict[str, bytes]:
    """Return entries whose ``weights.safetensors`` holds every weight, and which have no index.

    Raises
    ------
    ValueError : the index names what is not there, or what does not fit.
    """
    index_name, name = f"extra/{INDEX}", f"extra/{WEIGHTS}"
    if index_name not in entries:
        return entries
    try:
        index = json.loads(entries[index_name])
        left = deserialize(entries[name])
    except (ValueError, RecursionError, KeyError, SafetensorError) as error:
        raise ValueError(f"its weights are not readable ({error})") from error
    if not isinstance(index, dict):
        raise ValueError(f"{INDEX} is no table")
    weights = {weight: _indexed(weight, said, entries) for weight, said in index.items()}
    for weight, stored in left:
        if weight in weights:
            raise ValueError(f"it has two weights of the name {weight}")
        weights[weight] = (stored["dtype"], list(stored["shape"]), bytes(stored["data"]))
    whole = {key: content for key, content in entries.items() if key != index_name}
    whole[name] = _as_safetensors(weights)
    return whole


def _indexed(
    weight: str, said: object, entries: Mapping[str, bytes]
) -> tuple[str, list[int], bytes]:
    if not (isinstance(said, list) and len(said) == 4):
        raise ValueError(f"{INDEX} says nothing that is understood of {weight}")
    record, dtype, shape, checksum = said
    is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if dtype not in _ITEM_BYTES or not is_shape or not str(record).startswith("data/"):
        raise ValueError(f"{INDEX} says nothing that is understood of {weight}")
    if record not in entries:
        raise ValueError(f"the record {record} of the weight {weight} is missing")
    content = entries[record]
    if math.prod(shape) * _ITEM_BYTES[dtype] != len(content):
        raise ValueError(f"the record {record} of the weight {weight} has {len(content)} bytes")
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"the record {record} of the weight {weight} is not what the program has")
    return dtype, shape, content


def _as_safetensors(weights: Mapping[str, tuple[str, list[int], bytes]]) -> bytes:
    """Return the format's bytes: the length of a JSON header, the header, the numbers."""
    header: dict[str, object] = {}
    position = 0
    for weight, (dtype, shape, content) in weights.items():
        offsets = [position, position + len(content)]
        header[weight] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    contents = [content for _, _, content in weights.values()]
    return struct.pack("<Q", len(text)) + text + b"".join(contents)
