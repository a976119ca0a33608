"""``eqcalc ipi``: a model as the force field of i-PI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import is_quiet, print_json, say
from eqcalc.cli.options import (
    AsJson,
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    MaxEdges,
    Quiet,
    Skin,
    Threads,
    Trust,
)
from eqcalc.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ipi"]

_PORT = 31415
_SECONDS = 30.0  # between two lines of progress


def ipi(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a model file.")],
    structure: Annotated[
        Path, typer.Argument(help="The file that i-PI starts from: elements and their order.")
    ],
    socket: Annotated[
        Optional[str], typer.Option(help="The <address> of i-PI's unix socket, or its path.")
    ] = None,
    host: Annotated[
        Optional[str], typer.Option(help="Where i-PI runs, with mode='inet'. Default: localhost.")
    ] = None,
    port: Annotated[
        Optional[int], typer.Option(help=f"Of i-PI, with mode='inet'. Default: {_PORT}.")
    ] = None,
    periodic: Annotated[
        Optional[bool],
        typer.Option(
            "--periodic/--open",
            help="See images in i-PI's cell, or none. Default: what the structure's file says.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for i-PI to appear.")] = 60.0,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    skin: Skin = 0.5,
    max_edges: MaxEdges = None,
    threads: Threads = None,
    trust: Trust = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give i-PI energies, forces and virials until its run ends.

    Example: [bold]eqcalc ipi painn-ethanol ethanol.xyz --socket ethanol[/bold]
    """
    if socket is not None and (host is not None or port is not None):
        raise ConfigError(
            "--socket is a unix socket and needs neither --host nor --port; give either."
        )
    if socket is None and host is None and port is None:
        raise ConfigError(
            "give --socket NAME, the <address> of i-PI's <ffsocket mode='unix'>, or --host and "
            "--port of mode='inet'."
        )
    from eqcalc.cli.setup_run import set_up_calculator
    from eqcalc.hosts.ipi import serve
    from eqcalc.hosts.ipi_protocol import Address

    atoms = _read(structure)
    _set_boundaries(atoms, structure, periodic)
    options = CalculatorOptions(model, device, dtype, engine, skin, max_edges, threads, trust)
    calculator, source = set_up_calculator([atoms], options)
    address = Address(socket, host or "localhost", _PORT if port is None else port)
    say(f"i-PI at {address}; the model sees {_boundaries(atoms)}")
    n_evaluated = serve(
        calculator, atoms, **address._asdict(), wait=wait, progress=_Lines(time.monotonic()).show
    )
    if as_json:
        print_json({"structure": str(structure), **source, "evaluated": n_evaluated})
    say(f"i-PI ended the run; {n_evaluated} structures were evaluated")


def _read(path: Path) -> Atoms:
    """Return the first structure of a file: i-PI takes its frames for the beads of one.

    Raises
    ------
    StructureError : it cannot be read, or its frames are of different atoms.
    """
    from eqcalc.simulate.structures import read_structures

    atoms, *others = read_structures(path)
    for k, other in enumerate(others, 1):
        if other.numbers.tolist() != atoms.numbers.tolist():
            raise StructureError(
                f"frame {k} of '{path}' has other atoms, or another order, than frame 0: "
                f"{other.symbols} and {atoms.symbols}. i-PI starts from one structure; give the "
                "file that it reads."
            )
    if others:
        say(
            f"structure: elements of the {len(others) + 1} frames in {path.name}; cell of the first"
        )
    return atoms


def _set_boundaries(atoms: Atoms, path: Path, periodic: Optional[bool]) -> None:
    """Let atoms be periodic or open, as was asked for.

    Raises
    ------
    ConfigError : periodic atoms need a cell, and the file has none.
    """
    if periodic is not None:
        atoms.pbc = periodic
    if periodic and atoms.cell.rank < 3:
        raise ConfigError(
            f"--periodic needs a structure with a cell, found none in '{path}'; give an extxyz "
            "file with Lattice=, a cif or a POSCAR."
        )


def _boundaries(atoms: Atoms) -> str:
    if atoms.pbc.all():
        return "i-PI's cell as periodic"
    if not atoms.pbc.any():
        return "no cell: a molecule"
    return f"images where pbc={atoms.pbc.tolist()}; the pressure is not defined"


class _Lines:
    """A line of progress now and then: how long i-PI goes on is not known here."""

    def __init__(self, start: float) -> None:
        self._next = start + _SECONDS

    def show(self, n_evaluated: int) -> None:
        """Report how many structures were evaluated."""
        from eqcalc.cli.progress import print_line

        if not is_quiet() and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            print_line(f"{n_evaluated} structures evaluated")
