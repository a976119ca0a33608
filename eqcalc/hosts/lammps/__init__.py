"""LAMMPS: the pair style as a plugin (C++), its build, and the command that runs an input.

    pair_eqcalc   the pair style, as LAMMPS sees it: atoms, ghosts, energies, forces, virial
    model         the model, as torch sees it
    ticket        what Python found out about the model, asked for by rank 0
    prepare.py    writes the ticket
    build.py      builds the plugin against the installed LAMMPS and torch
    launch.py     starts the installed LAMMPS with the plugin

The pair style knows no model format: :mod:`eqcalc.hosts.lammps.prepare` reads, checks and
compiles, so that everything that protects users of the calculator protects users of LAMMPS.
"""
