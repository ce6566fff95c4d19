"""A company's whole way on a real cluster: install, tune, serve, ask, change the data, roll back, delete.

Everything is real: node, images, Helm, operator, trainer and server pods, the model, the `openai` client. Only the
size differs: `make e2e` takes the demo's model, the tests a tiny one.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support import charts, tiny_models
from tests.support.kube import cluster as clusters
from tests.support.kube import images, node

Json = dict[str, Any]

SYSTEM = "topcoat-system"
TEAM = "claims-team"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CLAIM = "company-data"
ASK = """
import json, sys
import openai
url, key, model, text = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key=key, timeout=60, max_retries=2)
try:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8)
    print(json.dumps({"text": answer.choices[0].message.content, "digest": answer.system_fingerprint}))
except openai.APIStatusError as error:
    print(json.dumps({"code": error.status_code, "error": str(error)}))
"""

ASK_MANY = """
import collections, json, sys
import openai
url, model, text, count, tokens = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="none", timeout=60, max_retries=0)
digests, wrong = collections.Counter(), collections.Counter()
for person in range(int(count)):
    try:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=int(tokens),
            user=str(person))
        digests[answer.system_fingerprint] += 1
    except openai.OpenAIError as error:
        wrong[type(error).__name__] += 1
print(json.dumps({"digests": digests, "wrong": wrong}))
"""


@dataclass(frozen=True, slots=True)
class Material:
    """What the company brings: a folder with a model and data, and the manifest."""

    folder: Path
    manifest: Json
    other_data: str
    """Address of data that was spoilt: its version must lose."""
    question: str


@dataclass
class Story:
    """One cluster and what happened on it so far. Each chapter is a method; each prints how long it took."""

    cluster: clusters.Cluster
    say: Callable[[str], None] = print
    team: str = TEAM
    times: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def chapter(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.times[name] = time.monotonic() - began
        self.say(f"{self.times[name]:7.1f} s  {name}")

    @property
    def image(self) -> str:
        """The trainer's, as pods of this cluster find it."""
        return f"{node.REGISTRY}/topcoat/trainer:{images.version()}"

    # --- the platform team

    def install(self) -> None:
        """Images into the cluster's registry, the chart by the real Helm, the default profile."""
        with self.chapter("build and push the images"):
            for part in images.PARTS:
                images.build(part)
                self.cluster.push(part)
        with self.chapter("helm install"):
            place = {"registry": node.REGISTRY, "tag": images.version()}
            values = {"image": place, "trainerImage": place}
            path = self.cluster.owned.path / "values.json"
            path.write_text(json.dumps(values))
            done = charts.run(
                "install", "topcoat", str(charts.CHART), "--namespace", SYSTEM, "--create-namespace",
                "--values", str(path), "--wait", "--timeout", "3m", kubeconfig=self.cluster.kubeconfig,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr + self.kubectl("get", "pods,events", "-n", SYSTEM)
            self.kubectl("apply", "-f", str(charts.ROOT / "examples" / "profiles" / "default.yaml"))

    # --- the tenant

    def bring(self, material: Material) -> None:
        """The namespace admits restricted pods only."""
        with self.chapter("copy model and data onto a claim"):
            self.cluster.create_namespace(self.team, RESTRICTED)
            self.put(material)

    def put(self, material: Material) -> None:
        """Model and data get onto a claim as `kubectl cp` puts them there, beside what is there."""
        self.cluster.apply_objects(_loader(self.team, self.image))
        self.kubectl("wait", "--for=condition=Ready", "pod/loader", "-n", self.team, "--timeout=240s", seconds=260)
        for part in sorted(path for path in material.folder.iterdir() if path.is_dir()):
            self.kubectl("cp", f"{part}/.", f"{self.team}/loader:/data/{part.name}", seconds=240)
        self.kubectl("delete", "pod", "loader", "-n", self.team, "--grace-period=0", "--force")

    def apply(self, manifest: Json) -> None:
        body = {**manifest, "metadata": {**manifest["metadata"], "namespace": self.team}}
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def job(self, name: str) -> Json:
        return self.cluster.read(f"/apis/topcoat.dev/v1alpha1/namespaces/{self.team}/finetunejobs/{name}")

    def until(self, name: str, what: str, holds: Callable[[Json], bool], seconds: float) -> Json:
        """Waits for a status, and tells each phase on the way."""
        began, phase = time.monotonic(), ""
        while True:
            said = self.job(name).get("status") or {}
            if said.get("phase", "") != phase:
                phase = said["phase"]
                self.say(f"            {phase} after {time.monotonic() - began:.0f} s")
            with contextlib.suppress(KeyError, IndexError, TypeError):
                if holds(said):
                    return said
            if time.monotonic() > began + seconds:
                raise AssertionError(f"{what}: not after {seconds:.0f} s\n{self.everything(said)}")
            time.sleep(0.3)

    def everything(self, said: Json) -> str:
        """What a person would look at."""
        words = [json.dumps(said, indent=1), self.kubectl("get", "pods,jobs,modelservers,events", "-n", self.team)]
        for pod in self.kubectl("get", "pods", "-n", self.team, "-o", "name").split():
            with contextlib.suppress(RuntimeError):
                words.append(f"--- {pod}\n{self.kubectl('logs', pod, '-n', self.team, '--tail=30')}")
        words.append(self.kubectl("logs", "-n", SYSTEM, "deployment/topcoat", "--tail=40"))
        return "\n".join(words)

    def ask(self, name: str, text: str, key: str = "none") -> Json:
        """The real `openai` client, from a place that reaches Services: text and digest, or code and error."""
        url, model = self._endpoint(name)
        return dict(json.loads(self.cluster.box.run(sys.executable, "-c", ASK, url, key, model, text, seconds=120)))

    def ask_many(self, name: str, text: str, count: int, tokens: int) -> Json:
        """So many people, one after the other: how often each digest answered, and what went wrong."""
        url, model = self._endpoint(name)
        command = [sys.executable, "-c", ASK_MANY, url, model, text, str(count), str(tokens)]
        return dict(json.loads(self.cluster.box.run(*command, seconds=300)))

    def ask_until(self, stop: Path, name: str, text: str, tokens: int) -> list[Json]:
        """One client that asks until `stop` is there and tries nothing again; its answers as `asker` tells them."""
        command = [sys.executable, str(Path(__file__).with_name("asker.py")), *self._endpoint(name), text, str(tokens)]
        said = self.cluster.box.run(*command, str(stop), seconds=700)
        return [json.loads(line) for line in said.splitlines()]

    def _endpoint(self, name: str) -> tuple[str, str]:
        """Address and model as the job tells them; by the Service's number, for names are known in pods only."""
        where = self.job(name)["status"]["endpoint"]
        service = where["url"].split("//")[1].split(".")[0]
        found = json.loads(self.kubectl("get", "service", service, "-n", self.team, "-o", "json"))
        return f"http://{found['spec']['clusterIP']}:8000/v1", where["modelName"]

    def kubectl(self, *words: str, seconds: float = 60) -> str:
        return self.cluster.kubectl(*words, timeout_seconds=seconds)

    def pods(self) -> list[str]:
        return self.kubectl("get", "pods", "-n", self.team, "-o", "name").split()

    def versions_on_the_volume(self) -> list[str]:
        """Manifests of sealed versions, looked at on the disk behind the claim."""
        claim = self.cluster.read(f"/api/v1/namespaces/{self.team}/persistentvolumeclaims/topcoat-adapters")
        volume = self.cluster.read(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        folder = Path(volume["spec"]["local"]["path"])
        return sorted({path.parent.name for path in folder.glob("jobs/*/versions/v*/manifest.json")})


def live(story: Story, material: Material, seconds: float) -> None:
    """The chapters in order, once the material is there. `seconds`: how long one run may take."""
    name = material.manifest["metadata"]["name"]
    with story.chapter("apply, prepare, train, judge, promote, serve"):
        story.apply(material.manifest)
        first = story.until(
            name, "v1 serves", lambda said: said["servedVersion"] == "v1" and said["phase"] == "Ready", seconds
        )
    story.say(story.kubectl("get", "ftj", "-n", story.team).rstrip())
    told = story.kubectl("get", "events", "-n", story.team, "--field-selector", f"involvedObject.name={name}")
    assert "Warning" not in told, told
    with story.chapter("ask the model through its Service"):
        answer = story.ask(name, material.question)
        assert "text" in answer, f"{answer}\n{story.everything(first)}"
        story.say(f"            {material.question!r} -> {answer['text']!r}")
        assert answer["digest"] == digest_of(first, "v1")
    with story.chapter("other data: run 2, judged, traffic stays or moves"):
        spoilt = json.loads(json.dumps(material.manifest))
        spoilt["spec"]["dataset"]["train"]["uri"] = material.other_data
        story.apply(spoilt)
        second = story.until(name, "v2 is decided", lambda said: decided(said, "v2"), seconds)
        verdict = next(version["verdict"] for version in second["versions"] if version["version"] == "v2")
        story.say(f"            verdict: {verdict}; serves: {second['servedVersion']}")
        assert verdict == "Reject"
        assert story.ask(name, material.question)["digest"] == digest_of(first, "v1")
    with story.chapter("serving.pinnedVersion: v2, and back to v1"):
        pinned = json.loads(json.dumps(spoilt))
        pinned["spec"].setdefault("serving", {})["pinnedVersion"] = "v2"
        story.apply(pinned)
        moved = story.until(name, "v2 serves", lambda said: said["servedVersion"] == "v2", 120)
        assert story.ask(name, material.question)["digest"] == digest_of(moved, "v2")
        story.apply(spoilt)
        story.until(name, "v1 serves", lambda said: said["servedVersion"] == "v1", 120)
        assert story.ask(name, material.question)["digest"] == digest_of(first, "v1")
    with story.chapter("delete the job: no pod stays, the versions do"):
        story.kubectl("delete", "ftj", name, "-n", story.team, "--timeout=120s", seconds=130)
        deadline = time.monotonic() + 180
        while story.pods():
            assert time.monotonic() < deadline, story.everything({})
            time.sleep(0.5)
        assert story.versions_on_the_volume() == ["v1", "v2"]


def live_on_two_nodes(story: Story, material: Material, seconds: float) -> None:
    """The same training by two pods that find each other."""
    manifest = json.loads(json.dumps(material.manifest))
    manifest["metadata"]["name"] = "two-pods"
    manifest["spec"]["trainer"] = {"nodes": 2, "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}}
    manifest["spec"]["serving"] = {"mode": "None"}
    with story.chapter("a training of two pods"):
        story.apply(manifest)
        said = story.until("two-pods", "sealed", lambda said: said["versions"][0]["version"] == "v1", seconds)
        pods = json.loads(story.kubectl("get", "pods", "-n", story.team, "-l", "topcoat.dev/role=train", "-o", "json"))[
            "items"
        ]
        assert len({pod["metadata"]["name"] for pod in pods}) == 2
        assert all(pod["status"]["phase"] == "Succeeded" for pod in pods), story.everything(said)


def decided(said: Json, version: str) -> bool:
    states = {entry["version"]: entry["state"] for entry in said["versions"]}
    return states.get(version) not in (None, "Candidate") and said["phase"] in ("Ready", "Rejected")


def digest_of(said: Json, version: str) -> str:
    return next(str(entry["digest"]) for entry in said["versions"] if entry["version"] == version)


def _loader(team: str, image: str) -> list[Json]:
    """A claim, and a pod that mounts it until the data is there."""
    text = f"""
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata: {{name: {CLAIM}, namespace: {team}}}
      spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 2Gi}}}}}}
    - apiVersion: v1
      kind: Pod
      metadata: {{name: loader, namespace: {team}}}
      spec:
        securityContext:
          {{runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
        containers:
          - name: loader
            image: {image}
            command: [sleep, "3600"]
            securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
            volumeMounts: [{{name: data, mountPath: /data}}]
        volumes: [{{name: data, persistentVolumeClaim: {{claimName: {CLAIM}}}}}]
    """
    found: list[Json] = yaml.safe_load(textwrap.dedent(text))
    return found


def demo_material(folder: Path) -> Material:
    """The demo's real model and claims, made by the demo's own code."""
    command = [sys.executable, "-m", "topcoat_trainer.demo", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=600)
    manifest = yaml.safe_load((charts.ROOT / "examples" / "cluster" / "claims-triage.yaml").read_text())
    other = f"pvc://{CLAIM}/data/claims-shuffled.jsonl"
    return Material(folder, manifest, other, "fell off a ladder and broke a wrist")


def tiny_material(folder: Path) -> Material:
    """A seeded model of a few thousand weights and made-up claims: the same way in a fraction of the time."""
    tiny_models.make("llama", folder / "model" / "tiny", seed=1)
    chance = random.Random(0)
    (folder / "data").mkdir(parents=True)
    answers: dict[str, Callable[[str], str]] = {
        "right": lambda text: "property" if "roof" in text or "wall" in text else "other",
        "spoilt": lambda _: chance.choice(["zebra", "quartz", "violin"]),
        "endless": lambda _: " ".join(["la"] * 24),
    }
    made = (("train", 400, "right"), ("heldout", 120, "right"), ("spoilt", 400, "spoilt"), ("endless", 400, "endless"))
    for name, count, kind in made:
        rows = [_row(chance, answers[kind]) for _ in range(count)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    address = f"pvc://{CLAIM}"
    spec = {
        "baseModel": {"uri": f"{address}/model/tiny"},
        "dataset": {
            "train": {"uri": f"{address}/data/train.jsonl"},
            "evaluation": {"uri": f"{address}/data/heldout.jsonl"},
        },
        "method": {"layers": 2},
        "training": {"epochs": 4, "learningRate": "0.005", "maxSequenceLength": 128, "effectiveBatchSize": 8},
        "trainer": {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}},
        "evaluation": {"baselines": [], "generation": {"maxTokens": 4}},
        "promotion": {
            "requirements": [
                {"metric": "Loss", "against": "Base", "minSamples": 50},
                {"metric": "Loss", "against": "Serving", "minSamples": 50},
            ]
        },
        "serving": {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}},
    }
    manifest = {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "claims"},
        "spec": spec,
    }
    return Material(folder, manifest, f"{address}/data/spoilt.jsonl", "roof pipe car tree dog glass 7")


WORDS = ("roof", "pipe", "car", "tree", "dog", "glass", "fire", "water", "storm", "theft", "bike", "wall")


def _row(chance: random.Random, answer: Callable[[str], str]) -> Json:
    text = " ".join(chance.choice(WORDS) for _ in range(6))
    asked = {"role": "user", "content": f"{text} {chance.randrange(100_000)}"}
    return {"messages": [asked, {"role": "assistant", "content": answer(text)}]}
