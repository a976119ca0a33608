"""The contract of an architecture, for networks outside eqcalc and for its own tests.

:func:`check_contract` holds a potential to every law and returns a report. What belongs here: laws
(``symmetry``, ``derivative``, ``locality``, ``conduct``), the structures on which they are tested
(``geometries``), their tolerances, and broken networks that they must reject (``twins``).
``eqcalc.verification`` holds a user's model and structure to the same laws; nothing else imports
this folder.
"""

from eqcalc.concessions import Concessions
from eqcalc.testing.contract import Check, Report, check_contract

__all__ = ["Check", "Concessions", "Report", "check_contract"]
