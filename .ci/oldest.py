"""Print pip's constraints for the oldest versions that setup.cfg allows of what the tests need.

    python .ci/oldest.py setup.cfg

torch and triton are left out: old wheels of theirs bring several gigabytes for GPUs.
"""

import configparser
import re
import sys

settings = configparser.ConfigParser()
settings.read(sys.argv[1])
extras = settings["options.extras_require"]
lists = [settings["options"]["install_requires"]]
lists += [extras[name] for name in ("train", "hdf5", "plot", "test")]
for line in "\n".join(lists).splitlines():
    found = re.match(r"([\w-]+) >=([\d.]+),", line.strip())
    if found and found[1] not in ("torch", "triton"):
        print(f"{found[1]}=={found[2]}")
