"""One operator at a time: a Lease that is renewed, or the process ends. Ending is normal: nothing running needs us."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from topcoat.cluster import client

Json = dict[str, Any]


class Lost(Exception):
    """Somebody else has the Lease, or it could not be renewed in time."""


@dataclass(slots=True)
class Lease:
    """The Lease of this installation, held by this process or by another one."""

    api: client.Client
    namespace: str
    name: str
    holder: str
    seconds: int = 15
    renewed_at: float = 0.0
    """When it was last renewed, by the loop's clock."""
    held: bool = False

    async def acquire(self) -> None:
        """Waits until the Lease is ours."""
        while not await self._try():  # noqa: ASYNC110 - what is waited for happens on another machine
            await asyncio.sleep(self.seconds / 5)
        self.held = True

    async def keep(self) -> None:
        """Renews it for good. Raises Lost when it is gone, or when nobody could be asked for too long."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            try:
                kept = await self._try()
            except client.ApiError as error:
                # Whatever it says: an API server that has just started refuses its own users for a moment.
                if _now() - self.renewed_at > self.seconds:
                    raise Lost(f"the Lease could not be renewed: {error.reason}") from error
                continue
            if not kept:
                raise Lost("another operator holds the Lease")

    async def release(self) -> None:
        """Gives it back, so that the next operator need not wait."""
        if self.held:
            self.held = False
            await self._write(await self.api.get_or_none("Lease", self.namespace, self.name), holder="")

    async def _try(self) -> bool:
        """Takes or renews it; False while somebody else has it."""
        known = await self.api.get_or_none("Lease", self.namespace, self.name)
        spec = (known or {}).get("spec") or {}
        other = spec.get("holderIdentity") not in ("", None, self.holder)
        if other and not _expired(spec):
            return False
        try:
            await self._write(known, self.holder)
        except client.ApiError as error:
            if error.status == 409:
                return False
            raise
        self.renewed_at = _now()
        return True

    async def _write(self, known: Json | None, holder: str) -> None:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": self.seconds, "renewTime": moment}
        meta: Json = {"name": self.name, "namespace": self.namespace}
        body: Json = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        if known is None:
            await self.api.create(body)
            return
        # The version that was read: of two that try at once, one is told so.
        meta["resourceVersion"] = known["metadata"]["resourceVersion"]
        await self.api.replace(body)


def _expired(spec: Json) -> bool:
    try:
        renewed = datetime.fromisoformat(spec["renewTime"])
    except (KeyError, ValueError):
        return True
    return datetime.now(UTC) > renewed + timedelta(seconds=int(spec.get("leaseDurationSeconds") or 15))


def _now() -> float:
    return asyncio.get_running_loop().time()
