"""What the installation decides, from environment variables `TOPCOAT_*`. The chart sets them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from topcoat.manifests import pod

PREFIX = "TOPCOAT_"


class SettingsError(Exception):
    """A variable is missing or makes no sense."""


class Settings(pydantic.BaseModel):
    """All settings of the operator."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    pod_name: str = "topcoat-operator"
    """Who holds the Lease."""
    pod_namespace: str = "topcoat-system"
    """Namespace of the operator: its Lease and its key lie there."""
    watch_namespaces: str = ""
    """Namespaces to watch, separated by commas; empty: all."""
    trainer_image: str
    """Image of trainer and server pods, unless a profile names another."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of all pods."""
    image_pull_secrets: str = ""
    """Pull secrets of all pods, separated by commas; they must exist in the tenants' namespaces."""
    lease_name: str = "topcoat-operator"
    """The Lease; one per installation."""
    lease_seconds: Annotated[int, Field(ge=3, le=300)] = 15
    """How long a Lease holds without being renewed."""
    resync_seconds: Annotated[int, Field(ge=10, le=86_400)] = 300
    """How often every object is looked at, whatever the watches say."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of /healthz, /readyz and /metrics."""
    progress_port: Annotated[int, Field(ge=0, le=65_535)] = 8082
    """Port at which trainers report."""
    progress_url: str = ""
    """Address at which trainers report; empty: they do not."""
    progress_audience: str = "topcoat-progress"
    """Audience of the trainers' tokens."""
    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Objects looked at at the same time."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of log lines."""
    log_format: Literal["json", "text"] = "json"
    """One JSON object a line, or plain text."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        return _words(self.watch_namespaces)

    @property
    def platform(self) -> pod.Platform:
        return pod.Platform(
            image=self.trainer_image,
            pull_policy=self.image_pull_policy,
            pull_secrets=_words(self.image_pull_secrets),
            progress_url=self.progress_url,
            progress_audience=self.progress_audience,
            operator_namespace=self.pod_namespace,
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings; one error names every variable that is wrong."""
    fields = {
        name: environment[key] for name in Settings.model_fields if (key := f"{PREFIX}{name.upper()}") in environment
    }
    try:
        return Settings.model_validate(fields)
    except pydantic.ValidationError as error:
        wrong = (
            f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError("; ".join(wrong)) from None
