"""What a wheel would carry."""

import configparser
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_folder_is_listed_in_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {path.parent for path in (ROOT / "eqcalc").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == found | {"eqcalc.models"}


def test_every_file_of_a_shipped_model_is_package_data():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["eqcalc.models"].replace(",", " ").split()
    names = [str(path.relative_to(ROOT / "models")) for path in (ROOT / "models").glob("*/*")]
    assert "gmn-nbody/model.pt" in names
    assert [n for n in names if not any(fnmatch(n, pattern) for pattern in patterns)] == []
