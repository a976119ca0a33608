"""A run in a process of its own, to be killed, interrupted or starved of disk.

Usage: victim.py FOLDER FORMAT N_STEPS MAX_FILE_BYTES
"""

import resource
import sys

from springs import Springs, ethanol

from eqcalc.errors import OutputError
from eqcalc.simulate import MDRun, MDSettings

folder, trajectory_format, n_steps, max_bytes = sys.argv[1:]
atoms = ethanol()
settings = MDSettings(
    n_steps=int(n_steps), log_every=1, trajectory_format=trajectory_format, timestep_fs=1.0
)
run = MDRun(atoms, Springs(atoms), settings)
if int(max_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), int(max_bytes)))
try:
    run.run(folder)
except OutputError as error:
    print(error)
    sys.exit(2)
