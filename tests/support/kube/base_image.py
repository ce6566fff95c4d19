"""A stand-in for the public base image `python:3.11-slim`, made from this machine's own Debian or Ubuntu mirror for
machines that reach no image registry. Kept in the cache. Needs root and debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.kube import archive, folder

TAG = "docker.io/library/python:3.11-slim"
INCLUDED = "python3,python3-venv,ca-certificates"
BUILD_SECONDS = 900
# Lists and caches that the image does not need, and all that names this machine's mirror.
LEFT_OUT = (
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/resolv.conf",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
    "debootstrap",
)


def base_archive() -> Path:
    """The image as a docker-archive; about a minute when it is not there yet."""
    found = folder.cache() / "images" / f"base-{_codename()}.tar"
    with folder.locked(found.with_suffix(".lock")):
        if not found.exists():
            print("Building the base image from this machine's packages (once; a minute)", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
                _build(Path(scratch)).rename(found)
    return found


def _build(scratch: Path) -> Path:
    root = scratch / "root"
    command = ["nice", "-n", "10", "debootstrap", "--variant=minbase", f"--include={INCLUDED}", _codename(), str(root)]
    done = subprocess.run(
        [*command, mirror()], check=False, capture_output=True, text=True, timeout=BUILD_SECONDS, env=_environment()
    )
    if done.returncode:
        raise RuntimeError(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for name in LEFT_OUT:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (root / "var/log").mkdir(exist_ok=True)
    layer = scratch / "layer.tar"
    sorted_by_name = ["--sort=name", "--numeric-owner", "--xattrs", "--directory", str(root)]
    subprocess.run(["tar", "--create", "--file", layer, *sorted_by_name, "."], check=True, timeout=300)
    settings = {"Env": ["PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "LANG=C.UTF-8"]}
    return archive.write(scratch / "base.tar", TAG, layer, {**settings, "Cmd": ["python3"]})


def _environment() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def _codename() -> str:
    pairs = [line.partition("=") for line in Path("/etc/os-release").read_text().splitlines()]
    return {key: value.strip('"') for key, _, value in pairs}["VERSION_CODENAME"]


def mirror() -> str:
    """Where this machine's apt gets its packages; asked anew each time and written nowhere."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    found = {codename: address for address, codename in map(str.split, said.splitlines())}
    return found[_codename()]
