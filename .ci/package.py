"""Build the wheel and the sdist, and check what PyPI and its users would get."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
IMPORT = """
import importlib.metadata, pathlib, sk_datadrop
assert pathlib.Path(sk_datadrop.__file__).is_relative_to({site!r}), sk_datadrop.__file__
assert importlib.metadata.version("sk_datadrop") == sk_datadrop.__version__
"""


def run(*command, **options):
    """Run Python, and fail if it fails."""
    subprocess.run([sys.executable, *map(str, command)], check=True, **options)


def tracked(*folders):
    """Return the files that git knows, relative to the root."""
    command = ["git", "ls-files", "-z", *folders]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {name for name in listed.stdout.decode().split("\0") if name}


def check_wheel(path):
    """Fail unless it holds the package, its data, and nothing else."""
    with ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = next(name for name in names if name.endswith("/METADATA"))
        description = wheel.read(metadata).decode()
    package = {name for name in names if ".dist-info/" not in name}
    assert package == tracked("sk_datadrop"), package ^ tracked("sk_datadrop")
    assert "sk_datadrop/py.typed" in package
    dead = re.findall(r"\]\((?!https?:|#)[^)]*\)", description)
    assert not dead, f"links that lead nowhere on PyPI: {dead}"


def check_sdist(path):
    """Fail unless it holds all that git knows, but for files of tools."""
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    missing = {name for name in tracked() if name[0] != "."} - names
    assert not missing, missing


def check_installed(wheel, folder):
    """Fail unless the wheel can be imported and knows its version."""
    site = str(folder / "site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    env = os.environ | {"PYTHONPATH": site}
    run("-c", IMPORT.format(site=site), cwd=folder, env=env)


with TemporaryDirectory() as name:
    folder = Path(name).resolve()
    run("-m", "build", "--outdir", folder, ROOT, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run("-m", "twine", "check", "--strict", wheel, sdist)
    check_wheel(wheel)
    check_sdist(sdist)
    check_installed(wheel, folder)
