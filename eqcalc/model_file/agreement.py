"""What an archive's parts say of one model: the card, the weights, the state of the program.

Each of them could be another model's. The card's cutoff and hops decide which atoms a block of
a large structure needs, its weights what is compiled, and the state what TorchScript computes.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import numpy as np
from ase.data import chemical_symbols
from safetensors import SafetensorError, deserialize

from eqcalc.model_file.card import ModelCard, PropagatorCard
from eqcalc.model_file.declarations import dotted
from eqcalc.model_file.entries import WEIGHTS
from eqcalc.model_file.loops import LARGEST_END
from eqcalc.model_file.pickled import Instance, StoredTensor, read_pickle
from eqcalc.model_file.program import Program

__all__ = ["check_agreement", "check_state", "read_state"]

_KINDS = {
    "F64": "Double",
    "F32": "Float",
    "F16": "Half",
    "BF16": "BFloat16",
    "I64": "Long",
    "I32": "Int",
    "I16": "Short",
    "I8": "Char",
    "U8": "Byte",
    "BOOL": "Bool",
}
_PLAIN: dict[str, type] = {
    "Tensor": StoredTensor,
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "NoneType": type(None),
}


def read_state(entries: Mapping[str, bytes], *, any_state: bool = False) -> Instance:
    """Return the state of an archive's module, and check all its tensors' records.

    Parameters
    ----------
    any_state : see :func:`eqcalc.model_file.pickled.read_pickle`

    Raises
    ------
    ValueError : a part of it is missing or damaged.
    """
    if not re.fullmatch(rb"\d{1,3}\n?", entries.get("version", b"")):
        raise ValueError("it does not say in which version of torch's format it is")
    if entries.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not in the order of bytes that torch writes here")
    states = []
    for pickle, folder in (("data.pkl", "data/"), ("constants.pkl", "constants/")):
        if pickle not in entries:
            raise ValueError(f"it lacks {pickle}")
        records = {
            name[len(folder) :]: content
            for name, content in entries.items()
            if name.startswith(folder)
        }
        try:
            states.append(read_pickle(entries[pickle], records, any_state=any_state))
        except ValueError as error:
            raise ValueError(f"{pickle}: {error}") from error
    if not isinstance(states[0], Instance):
        raise ValueError("data.pkl holds no module")
    return states[0]


def check_state(root: Instance, program: Program) -> None:
    """Refuse a state that is not what the program's classes declare.

    torch does not look: a number where a list is declared would be read as an address.

    Raises
    ------
    ValueError : an attribute is missing or of another type, or lets a loop run too far.
    """
    for instance in _instances(root):
        found = program.classes.get(instance.kind)
        if found is None or found.is_tuple:
            raise ValueError(f"the class {instance.kind} is not in its program")
        for name, kind in found.fields.items():
            value = instance.state.get(name)
            if name not in instance.state:
                if name in found.constants:
                    value = found.constants[name]
                else:
                    raise ValueError(f"an object of {instance.kind} lacks {name}")
            elif not _conforms(value, kind):
                raise ValueError(
                    f"{name} of {instance.kind} is declared as {ast.unparse(kind)}, found "
                    f"{type(value).__name__}"
                )
            if (instance.kind, name) in program.loop_fields and not (
                type(value) is int and value <= LARGEST_END
            ):
                raise ValueError(f"{name} of {instance.kind} lets a loop run to {value}")
    forward = program.classes[root.kind].methods.get("forward")
    if forward is None or len(forward.args.args) != 5:  # self and four
        raise ValueError("its forward does not take the four arguments of a model")


def check_agreement(
    root: Instance, card: ModelCard, entries: Mapping[str, bytes], *, complete: bool
) -> None:
    """Refuse a card or weights that do not belong to the state of the program.

    Parameters
    ----------
    complete : also refuse a program that does not have the attributes of an exported one

    Raises
    ------
    ValueError : they differ; the message says in what.
    """
    name = "dynamics" if isinstance(card, PropagatorCard) else "potential"
    inner = root.state.get(name)
    if not isinstance(inner, Instance):
        if complete:
            raise ValueError(
                f"its program is not that of a {card.kind} that eqcalc wrote (it has no {name})"
            )
        return
    if name == "potential":
        _check_potential(inner, card, entries, complete)
    _check_weights(inner, entries)


def _check_potential(
    inner: Instance, card: ModelCard, entries: Mapping[str, bytes], complete: bool
) -> None:
    for what, said in (("cutoff", card.cutoff), ("n_hops", card.n_hops)):
        found = inner.state.get(what)
        if (complete or found is not None) and found != said:
            raise ValueError(f"the card says {what} = {said}, the program has {found}")
    tensors = {what: inner.state.get(what) for what in ("reference_energies", "scale")}
    if not all(isinstance(tensor, StoredTensor) for tensor in tensors.values()):
        if complete:
            raise ValueError("its program has no reference energies or no scale")
        return
    energies, scale = (_numbers(tensor, entries) for tensor in tensors.values())
    if scale.size != 1 or not float(scale.reshape(())) == card.scale:
        raise ValueError(f"the card says scale = {card.scale}, the program has {scale}")
    if energies.ndim != 1 or len(energies) > len(chemical_symbols):
        raise ValueError("its reference energies are no list of numbers by element")
    known = {
        symbol: float(energy)
        for symbol, energy in zip(chemical_symbols, energies.reshape(-1), strict=False)
        if not math.isnan(energy)
    }
    if known != card.reference_energies or set(known) != set(card.elements):
        raise ValueError(
            f"the card has reference energies of {', '.join(card.reference_energies) or 'none'} "
            f"and the elements {', '.join(card.elements)}; the program's reference energies, of "
            f"{', '.join(known) or 'none'}, are not the same"
        )


def _check_weights(inner: Instance, entries: Mapping[str, bytes]) -> None:
    try:
        weights = deserialize(entries[f"extra/{WEIGHTS}"])
    except KeyError as error:
        raise ValueError(f"it lacks {WEIGHTS}") from error
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS}: {error}") from error
    for name, stored in weights:
        found = _at(inner, name)
        if found is None:  # a fast form of a network may keep it under another name
            continue
        same = (
            _KINDS.get(stored["dtype"]) == found.kind
            and tuple(stored["shape"]) == found.size
            and bytes(stored["data"]) == _content(found, entries).tobytes()
        )
        if not same:
            raise ValueError(f"{name} in {WEIGHTS} is not what the program has")


def _at(inner: Instance, path: str) -> Optional[StoredTensor]:
    value: Any = inner
    for part in path.split("."):
        if not isinstance(value, Instance):
            return None
        value = value.state.get(part)
    return value if isinstance(value, StoredTensor) else None


def _content(tensor: StoredTensor, entries: Mapping[str, bytes]) -> np.ndarray:
    """Return a tensor's numbers as they lie in memory, undecoded."""
    whole = np.frombuffer(entries[f"data/{tensor.key}"], dtype=f"V{tensor.item_bytes}")
    steps = tuple(step * tensor.item_bytes for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(whole[tensor.offset :], tensor.size, steps)


def _numbers(tensor: Any, entries: Mapping[str, bytes]) -> np.ndarray:
    types = {"Double": "<f8", "Float": "<f4"}
    if tensor.kind not in types:
        raise ValueError(f"its reference energies or scale are of the type {tensor.kind}")
    return np.ascontiguousarray(_content(tensor, entries)).view(types[tensor.kind])


def _instances(root: Instance) -> Iterator[Instance]:
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Instance):
            yield value
            waiting.extend(value.state.values())
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)


def _conforms(value: Any, kind: ast.expr) -> bool:
    """Return whether a value is what a type of TorchScript says."""
    if isinstance(kind, ast.Name):
        return type(value) is _PLAIN.get(kind.id)
    if isinstance(kind, ast.Constant):
        return value is None
    if isinstance(kind, ast.Attribute):
        return isinstance(value, Instance) and value.kind == dotted(kind)
    if not isinstance(kind, ast.Subscript) or not isinstance(kind.value, ast.Name):
        return False
    inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
    if kind.value.id == "Optional":
        return value is None or _conforms(value, inner[0])
    if kind.value.id == "List":
        return type(value) is list and all(_conforms(item, inner[0]) for item in value)
    if kind.value.id == "Tuple":
        return (
            type(value) is tuple and len(value) == len(inner) and all(map(_conforms, value, inner))
        )
    return (
        type(value) is dict
        and len(inner) == 2
        and all(_conforms(k, inner[0]) and _conforms(v, inner[1]) for k, v in value.items())
    )
