"""The operator's own secret: made once per installation, from which each server's token is derived."""

from __future__ import annotations

import base64
import secrets

from topcoat.cluster import client

NAME = "topcoat-operator-key"
FIELD = "key"


async def read_or_make(api: client.Client, namespace: str) -> bytes:
    """The key. Of two operators that start at once, one makes it and both read it."""
    for _ in range(3):
        found = await api.get_or_none("Secret", namespace, NAME)
        if found is not None:
            return base64.b64decode(found["data"][FIELD])
        data = {FIELD: base64.b64encode(secrets.token_bytes(32)).decode()}
        meta = {"name": NAME, "namespace": namespace}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}
        await api.create_unless_there(body)
    raise client.ApiError(0, "NoKey", f"the Secret {NAME} can neither be read nor made")
