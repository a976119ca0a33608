"""Networks that were trained with other packages, as potentials of eqcalc: one package per file.

An importer is a module with ``KIND`` (such as "SevenNet checkpoint"), ``recognises(file)``, which
looks at the content alone, and ``read(file, choices)``, which returns an
:class:`~eqcalc.importers.imported.Imported`; ``original(file, choices)`` is the package's own
calculator, to compare with. What it does not know exactly it refuses by name; nothing is
approximated. Files are read by :mod:`eqcalc.importers.foreign_file`: nothing of them is imported or
run, and the package that wrote them need not be installed.
"""

from eqcalc.importers.checking import Difference, check_import
from eqcalc.importers.conversion import ImportedModel, import_model
from eqcalc.importers.foreign_file import ForeignFile, read_foreign
from eqcalc.importers.imported import Choices, Imported
from eqcalc.importers.inert import Inert, state_of

__all__ = [
    "Choices",
    "Difference",
    "ForeignFile",
    "Imported",
    "ImportedModel",
    "Inert",
    "check_import",
    "import_model",
    "read_foreign",
    "state_of",
]
