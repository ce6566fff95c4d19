"""Topcoat's images from the Dockerfile, by docker or by buildah, whichever is there; `make images` and the test cluster
use it. Gives the build this machine's own package mirror and certificates as secrets, so that none of it is kept."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.kube import base_image, folder, tools

PARTS = ("operator", "trainer")
SBOM = "/usr/share/topcoat/sbom.cdx.json"
BUILD_SECONDS = 3600
# Names the other builder where both are installed.
BUILDER = "TOPCOAT_BUILDER"
# What of this machine's pip configuration a build needs.
KEPT = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "default-timeout")
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class NoImages(Exception):
    """The images cannot be built on this machine."""


def version() -> str:
    found: str = tomllib.loads((tools.ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def name(part: str) -> str:
    return f"topcoat/{part}:{version()}"


def build(part: str) -> str:
    """Builds one image; its name. Quick when only code changed, nothing at all when nothing did. Two builds of the
    trainer side by side could fill a disk, so one waits for the other.
    """
    with folder.locked(folder.cache() / ".images.lock"), _secrets() as secrets:
        words = [f"--target={part}", f"--tag={name(part)}", *secrets]
        words += [f"--build-arg=VERSION={version()}", f"--build-arg=REVISION={_revision()}", str(tools.ROOT)]
        if builder() == "docker":
            _run("docker", "build", *words, environment={"DOCKER_BUILDKIT": "1"})
        else:
            _base()
            _run("buildah", "build", "--layers", "--pull-never", "--isolation=chroot", *words)
    return name(part)


def built(part: str) -> bool:
    """Whether there is an image of this version; it may be of older code."""
    command = {"docker": ["docker", "image", "inspect"], "buildah": ["buildah", "inspect", "--type=image"]}[builder()]
    return not subprocess.run([*command, name(part)], check=False, capture_output=True, timeout=60).returncode


def builder() -> str:
    """buildah where it is installed, because the test cluster takes images from its store; else docker."""
    if wish := os.environ.get(BUILDER):
        return wish
    for found in ("buildah", "docker"):
        if shutil.which(found):
            return found
    raise NoImages("building images needs buildah or docker")


def write_sbom(part: str, folder: Path) -> Path:
    """The list of what is in an image (CycloneDX), as the image itself carries it."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{part}-{version()}.cdx.json"
    target.write_text(run(part, "cat", SBOM))
    return target


def run(part: str, *command: str) -> str:
    """What a command prints in a container of the image, without any cluster."""
    if builder() == "docker":
        return _run("docker", "run", "--rm", "--entrypoint=", name(part), *command)
    container = _run("buildah", "from", "--pull-never", name(part)).strip()
    try:
        return _run("buildah", "run", "--isolation=chroot", container, "--", *command)
    finally:
        _run("buildah", "rm", container)


def inspect(part: str) -> str:
    """All that an image says about itself: labels, environment, history."""
    if builder() == "docker":
        return _run("docker", "image", "inspect", name(part)) + _run("docker", "history", "--no-trunc", name(part))
    return _run("buildah", "inspect", "--type=image", name(part))


def push(part: str, registry: str, enter: Sequence[str] = ()) -> str:
    """Into a registry without TLS, for the test cluster; the name under which pods ask for it. Only new layers go."""
    target = f"{registry}/{name(part)}"
    words = ["--tls-verify=false", "--format=oci", "--compression-format=zstd"]
    _run("buildah", "push", *words, f"localhost/{name(part)}", f"docker://{target}", enter=enter)
    return target


def _base() -> None:
    """The base image in buildah's store: the public one, or else one made from this machine's packages."""
    known = subprocess.run(
        ["buildah", "inspect", "--type=image", base_image.TAG], check=False, capture_output=True, timeout=60
    )
    if not known.returncode:
        return
    pull = subprocess.run(
        ["buildah", "pull", "--quiet", base_image.TAG], check=False, capture_output=True, text=True, timeout=600
    )
    if not pull.returncode:
        return
    if os.geteuid() or not shutil.which("debootstrap"):
        raise NoImages(f"{base_image.TAG} cannot be pulled, and making one needs root and debootstrap:\n{pull.stderr}")
    _run("buildah", "pull", "--quiet", f"docker-archive:{base_image.base_archive()}")


@contextlib.contextmanager
def _secrets() -> Iterator[list[str]]:
    """Words that hand this machine's mirror and certificates to a build; the files are gone afterwards."""
    with tempfile.TemporaryDirectory() as place:
        lines = ["[global]", *pip_settings()]
        words = [f"--secret=id=pip,src={place}/pip.conf"]
        if certificates := next((path for path in _certificates() if Path(path).is_file()), None):
            lines.append("cert = /run/secrets/ca")
            words.append(f"--secret=id=ca,src={certificates}")
        Path(place, "pip.conf").write_text("\n".join(lines) + "\n")
        yield words


def _certificates() -> list[str]:
    return [*(os.environ[key] for key in CERTIFICATES if os.environ.get(key)), SYSTEM_CERTIFICATES]


def pip_settings() -> list[str]:
    """Lines of a pip.conf, from what pip itself says that it uses here; the environment's word is the last."""
    for python in (str(tools.ROOT / ".tools/uv/bin/python"), sys.executable, "python3"):
        if shutil.which(python):
            asked = [python, "-m", "pip", "config", "list"]
            said = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60)
            if not said.returncode:
                return settings(said.stdout)
    return []


def settings(said: str) -> list[str]:
    found: dict[str, str] = {}
    for source, key, value in re.findall(r"^(global|install|:env:)\.([\w-]+)='(.*)'$", said, re.MULTILINE):
        if key in KEPT and (source == ":env:" or key not in found):
            found[key.removeprefix("default-")] = value.replace("\\n", " ")
    return [f"{key} = {value}" for key, value in found.items()]


def _revision() -> str:
    asked = ["git", "-C", str(tools.ROOT), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60).stdout.strip()


def _run(*command: str, enter: Sequence[str] = (), environment: dict[str, str] | None = None) -> str:
    """At low priority: a build of minutes must not starve what else runs here."""
    done = subprocess.run(
        ["nice", "-n", "10", *enter, *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise NoImages(f"{' '.join(command[:2])} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout
