"""Terminals that know ASCII alone: what they print instead of Å and →, and files in UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import locale
import sys
from typing import TextIO

__all__ = ["prepare_streams"]

_HANDLER = "eqcalc.in-ascii"

_IN_ASCII = {
    **{"Å": "A", "µ": "u", "μ": "u", "°": " deg", "·": "*", "×": "x", "±": "+-", "−": "-"},
    **{"²": "^2", "³": "^3", "⁻": "^-", "¹": "^1", "√": "sqrt", "Σ": "sum ", "∂": "d"},
    **{"→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "≥": ">=", "≤": "<="},
    **{"•": "*", "’": "'", "‘": "'", "“": '"', "”": '"', "é": "e", "ö": "oe", "ä": "ae"},
    **{"ü": "ue", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "eps"},
    **{"λ": "lambda", "σ": "sigma", "φ": "phi", "⊗": "x", "━": "-", "─": "-", "│": "|"},
}


def prepare_streams() -> None:
    """Let stdout and stderr take every text, and files be read as UTF-8, whatever the locale.

    Both belong to the process, and so to the command line; a library must not do this.
    """
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if not _takes_everything(stream):
            stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]
    if locale.getpreferredencoding(False).lower().replace("-", "") != "utf8":
        # Not for us, who name the encoding: for ASE, which opens files in the locale's.
        for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8", "UTF-8"):
            with contextlib.suppress(locale.Error):
                locale.setlocale(locale.LC_CTYPE, name)
                break


def _takes_everything(stream: TextIO) -> bool:
    """Tell whether a stream can print any character, or cannot be taught to."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    strict = getattr(stream, "errors", "strict") in ("strict", None)
    return not hasattr(stream, "reconfigure") or (encoding.startswith("utf") and not strict)


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that a stream cannot encode; codecs asks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    out = b""
    for character in error.object[error.start : error.end]:
        if "\udc80" <= character <= "\udcff":  # a byte of a file's name, as Python holds it
            out += bytes([ord(character) - 0xDC00])
        else:
            out += _IN_ASCII.get(character, "?").encode("ascii")
    return out, error.end
