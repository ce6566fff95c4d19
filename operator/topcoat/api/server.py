"""What a model server is told, and what it says back. Files of the ConfigMap that it mounts, and its agent's answers.

One file tells of the server itself (`server.json`), one of each alias (`<alias>.json`), so that two jobs never write
the same key. The mounted files are the truth after a restart; a push brings the same sooner.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topcoat.api.field import Digest, Name, Version
from topcoat.api.section import Lenient

SERVER_FILE = "server.json"
"""Key of the server's own file; every other key of the ConfigMap is `<alias>.json`."""
CLIENT_PORT = 8000
"""Where clients call."""
AGENT_PORT = 8001
"""Where the operator asks and pushes."""
LATENCY_SECONDS = tuple(round(0.001 * 1.25**step, 6) for step in range(60))
"""Upper bounds of the counts of answers by time: 1 ms to 8 minutes, each a quarter above the one before."""


class BesideVLLM(Lenient):
    """The vLLM in the same pod that computes for the server."""

    url: Annotated[str, Field(pattern=r"^http://(127\.0\.0\.1|\[::1\]|localhost):[0-9]{1,5}$")]
    """Where it listens: on the pod's own loopback, so that nobody else reaches it."""
    folder: str
    """Folder that both see at the same path; the server puts versions there for vLLM to read."""
    precision: Literal["FP32", "FP16", "BF16"] = "FP32"
    """Number format that it was told to compute in (`--dtype`)."""


class ServerFile(Lenient):
    """The server itself; a change of it is a roll-out of the Deployment."""

    name: Name
    """ModelServer's name."""
    namespace: Name
    """Its namespace."""
    base_model_id: str
    """Name of the base model for clients."""
    base_model_path: str
    """Folder of the base model in the pod."""
    base_model_digest: str
    """SHA-256 over its files, hex; another one is refused."""
    max_adapters: Annotated[int, Field(ge=1)] = 16
    """Tuned versions on the device at once."""
    max_rank: Annotated[int, Field(ge=1)] = 64
    """Highest rank that is accepted."""
    max_running: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests that take turns on the device at once."""
    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = 64
    """Requests that may wait besides; the next one is told to come again (429)."""
    request_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """A request takes no longer, waiting included."""
    news_seconds: Annotated[int, Field(ge=0, le=600)] = 0
    """At the start: how long to stay unready for a first push, as mounted files may be older than the alias is. After
    that the files count as they are."""
    notice_seconds: Annotated[int, Field(ge=0, le=600)] = 3
    """When asked to stop: how long requests are still taken, unready already, until nobody sends them here."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 25
    """After that: how long answers may take to end. Both together are less than the pod's termination grace."""
    admin_token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the operator's token for this server. A hash of a random token tells nothing, so it may be read."""
    vllm: BesideVLLM | None = None
    """Engine; absent: our own (Transformers), in the server's process."""


class WantedVersion(Lenient):
    """A version that shall be loaded and proved."""

    version: Version
    """Its name."""
    path: str
    """Its folder in the pod."""
    digest: Digest
    """SHA-256 of its manifest.json."""


class Target(Lenient):
    """A share of an alias' traffic."""

    version: Version
    """Version that answers."""
    weight: Annotated[int, Field(ge=1, le=100)] = 100
    """Per cent; the weights of an alias make 100."""


class AliasFile(Lenient):
    """One alias: whose it is, what shall be loaded for it, and who answers."""

    alias: Name
    """The model name that clients call."""
    job: Name
    """Its FineTuneJob."""
    generation: Annotated[int, Field(ge=1)]
    """Counts changes of this file; an older one is never followed. An alias that was dropped and comes again
    counts on, or is heard only once its file was seen to be gone."""
    versions: Annotated[tuple[WantedVersion, ...], Field(max_length=16)] = ()
    """What shall be loaded: what answers, what is to answer next, and what one may go back to."""
    targets: Annotated[tuple[Target, ...], Field(max_length=8)] = ()
    """Who answers. Empty: nobody yet (404 for clients)."""
    watched: Version | None = None
    """The version that is being tried: as long as this stands, answers are counted, by version."""
    token_file: str | None = None
    """File in the pod with the bearer token that clients must show."""


class Push(Lenient):
    """Body of `POST /agent/aliases`: the same as the mounted files, sooner."""

    aliases: Annotated[tuple[AliasFile, ...], Field(max_length=512)] = ()
    """Aliases that were written or changed."""
    dropped: Annotated[tuple[Name, ...], Field(max_length=512)] = ()
    """Aliases that are gone."""


class Proof(Lenient):
    """Replay of a version's golden probes through the path that clients use."""

    ok: bool
    """Whether the answers agree."""
    max_abs_diff: float = 0.0
    """Largest difference of a log-probability."""
    at: str = ""
    """When, RFC 3339."""
    problem: str = ""
    """Why not, in words: file, digests, shapes."""


class HeldVersion(Lenient):
    """A version as this pod has it."""

    job: Name
    """Its FineTuneJob."""
    version: Version
    """Its name."""
    digest: Digest
    """Digest of the manifest that was verified."""
    state: Literal["Loading", "Proved", "Refused"]
    """`Proved`: it answers exactly as it was sealed."""
    probe: Proof | None = None
    """The replay, or why it was refused."""


class Traffic(Lenient):
    """How one version answered to an alias, since `watched` changed last. Counts only: no text, no client."""

    version: Version
    """Version that answered."""
    requests: Annotated[int, Field(ge=0)] = 0
    """Requests that ended, but for those that the client broke off or that were wrong in themselves (4xx)."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Those that the server could not answer (5xx)."""
    empty: Annotated[int, Field(ge=0)] = 0
    """Answers without any text, or that repeat themselves up to their last token."""
    latency: Annotated[tuple[int, ...], Field(max_length=64)] = ()
    """Answers by how long they took: a count for each of `LATENCY_SECONDS`, and one for all that took longer."""


class HeldAlias(Lenient):
    """An alias as this pod answers it now."""

    alias: Name
    """The model name."""
    job: Name
    """Its FineTuneJob."""
    generation: int
    """Generation of the alias file that is in force."""
    targets: tuple[Target, ...] = ()
    """Who answers."""
    traffic: tuple[Traffic, ...] = ()
    """How they answered, while one of them is watched."""


class EngineState(Lenient):
    """The engine's process."""

    boot_id: str
    """Changes with every start: what was loaded before is gone."""
    name: str
    """`Transformers` or `VLLM`."""
    version: str
    """Its version."""
    without_base: str = ""
    """Why it does not answer as the base model; empty: it does."""


class AgentState(Lenient):
    """`GET /agent/state`: what this pod holds and has proved."""

    ready: bool
    """Whether everything that any alias names is loaded and proved."""
    base_model_digest: str = ""
    """Digest of the base model that is in memory."""
    versions: tuple[HeldVersion, ...] = ()
    """Tuned versions."""
    aliases: tuple[HeldAlias, ...] = ()
    """Aliases."""
    engine: EngineState
    """The engine."""
