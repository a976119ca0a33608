"""The page of a run in a real browser, without a network.

Marked ``browser``: they need a Chromium (Debian: ``apt-get install chromium``), which pip does
not bring; ``.ci/run`` installs it. Pictures go to the folder that EQCALC_ARTEFACTS names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from eqcalc.report import write_report
from eqcalc.simulate import MDSettings, run_md

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browse(page: Path, profile: Path, *options: str, part: str = "") -> str:
    """Open a page in headless Chromium that reaches no host; return what it prints."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program is not None, f"these tests need one of {', '.join(BROWSERS)}"
    words = [
        program,
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        "--hide-scrollbars",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=5000",
        f"--user-data-dir={profile}",
        *options,
        f"{page.resolve().as_uri()}{part}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout


def state(page: Path, profile: Path, part: str = "") -> dict[str, str]:
    """Return what the scripts of the page say of themselves, once it has settled."""
    text = browse(page, profile, "--dump-dom", "--window-size=1200,1200", part=part)
    head = re.search(r"<html[^>]*>", text)
    assert head is not None, text[:500]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', head[0]))


@pytest.fixture(scope="module")
def ethanol(tmp_path_factory) -> Path:
    """The page of a run of ethanol."""
    folder = tmp_path_factory.mktemp("browser") / "ethanol"
    run_md(molecule("CH3CH2OH"), EMT(), MDSettings(n_steps=400), folder)
    return write_report(folder)


@pytest.fixture(scope="module")
def copper(tmp_path_factory) -> Path:
    """The page of a run whose cell changes, in a folder with an evil name."""
    settings = MDSettings(ensemble="npt", timestep_fs=4, n_steps=200, barostat_time_fs=200)
    folder = tmp_path_factory.mktemp("browser") / "Cu <img src=x onerror=alert(1)> & 'co'"
    run_md(bulk("Cu", cubic=True) * (2, 2, 2), EMT(), settings, folder)
    return write_report(folder)


def test_page_opens_without_a_network_and_runs_without_an_error(ethanol, tmp_path):
    assert state(ethanol, tmp_path) == {"charts": "3", "frame": "0", "viewer": "ready"}


def test_evil_name_of_a_folder_runs_nothing(copper, tmp_path):
    found = state(copper, tmp_path)  # it would also name an error, and what was blocked
    assert int(found.pop("charts")) >= 5
    assert found == {"frame": "0", "viewer": "ready"}


def test_link_to_a_time_shows_its_frame(copper, tmp_path):
    assert state(copper, tmp_path, part="#t=0.4")["frame"] == "10"


def test_trajectory_plays(ethanol, tmp_path):
    assert int(state(ethanol, tmp_path, part="#playing")["frame"]) > 0


def test_foreign_script_is_blocked_by_the_page_itself(ethanol, tmp_path):
    text = ethanol.read_text(encoding="utf-8")
    forged = tmp_path / "forged.html"
    forged.write_text(text.replace("<main>", "<main><script>document.title = 1</script>"))
    # The first script of the page, which would see it, comes later; the title tells.
    dumped = browse(forged, tmp_path / "profile", "--dump-dom")
    assert "<title>ethanol</title>" in dumped


@pytest.mark.parametrize(
    ("width", "height"), [(1200, 1300), (500, 2600)], ids=["desk", "telephone"]
)
def test_picture_shows_atoms_and_curves(ethanol, tmp_path, width, height):
    from matplotlib.image import imread

    folder = Path(os.environ.get("EQCALC_ARTEFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"report-{width}.png"
    browse(
        ethanol, tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},{height}"
    )
    pixels = (imread(picture)[..., :3] * 255).round().astype(int)
    assert pixels.shape[:2] == (height, width)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    oxygen = (red > 120) & (green < 40) & (blue < 40)
    assert oxygen.sum() > 100
    curve = (abs(red - 0x00) < 12) & (abs(green - 0x9E) < 12) & (abs(blue - 0x73) < 12)
    assert curve.sum() > 200
