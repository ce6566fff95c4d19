"""What a base model's folder holds, found out without torch and before a weight is loaded: facts, or a refusal by name.

Accepts safetensors and JSON only. A key that would import code, a link that leaves the folder, a shard cut short: each
is a BaseModelError that names the file, the reason and the fix. There is no way to trust remote code here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topcoat_trainer import config_file, files, weight_file
from topcoat_trainer.errors import BaseModelError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
# All that transformers reads beside config and weights: they decide how text becomes tokens, so they are in the digest.
COMPANIONS = (
    "generation_config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
OTHER_WEIGHTS = frozenset({".gguf", ".ggml", ".h5", ".msgpack", ".onnx"})
SAVE_HINT = "load it once where you trust it and write it with save_pretrained(FOLDER), which writes safetensors"
FETCH_HINT = "fetch the model again, whole; compare the file's size with the publisher's"
CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
EMBEDDING = re.compile(r"(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)[.]weight$")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file that is used."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A base model as its files describe it. Digests are hex SHA-256."""

    path: Path
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    vocabulary_size: int
    attention_heads: int
    max_positions: int
    dtype: str
    parameters: int
    parameter_bytes: int
    has_chat_template: bool
    files: tuple[ModelFile, ...]
    digest: str
    config_digest: str


def inspect(path: Path, sha256_of: Callable[[Path], str] = files.sha256) -> ModelFacts:
    """The facts of the model in a folder, or BaseModelError. `sha256_of` may remember the digests of large files."""
    root = _root(path)
    _refuse_links(root)
    _refuse_adapter(root)
    config = config_file.read(root / CONFIG)
    for other in sorted(root.glob("*config.json")):
        config_file.refuse_code(other, config_file.read(other))
    dimensions = config_file.dimensions(root / CONFIG, config)
    _refuse_other_kinds(config)
    shards, tensors = _weights(root)
    vocabulary_size = dimensions.vocabulary_size or _embedded_tokens(tensors)
    _check_tokenizer(root, vocabulary_size)
    used = [CONFIG, *(name for name in COMPANIONS if (root / name).is_file()), *shards]
    if (root / INDEX).is_file() and shards != [SINGLE]:
        used.append(INDEX)
    used += sorted(p.relative_to(root).as_posix() for p in root.glob("additional_chat_templates/*.jinja"))
    listed = tuple(ModelFile(n, (root / n).stat().st_size, sha256_of(root / n)) for n in sorted(used))
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in listed)
    trained_as = [entry for entry in tensors.values() if entry.dtype in weight_file.TRAINABLE]
    return ModelFacts(
        path=root,
        architecture=str((config.get("architectures") or [""])[0]),
        model_type=str(config.get("model_type", "")),
        layers=dimensions.layers,
        hidden_size=dimensions.hidden_size,
        vocabulary_size=vocabulary_size,
        attention_heads=dimensions.attention_heads,
        max_positions=dimensions.max_positions,
        dtype=_main_dtype(trained_as),
        parameters=sum(entry.elements for entry in trained_as),
        parameter_bytes=sum(entry.size_bytes for entry in trained_as),
        has_chat_template=_has_chat_template(root),
        files=listed,
        digest=files.sha256_of_bytes(lines.encode()),
        config_digest=next(file.sha256 for file in listed if file.name == CONFIG),
    )


def _root(path: Path) -> Path:
    if not path.exists():
        raise BaseModelError("there is no such folder", where=str(path), hint="check baseModel.uri and the volume")
    if not path.is_dir():
        raise BaseModelError(
            "a base model is a folder, not a file", where=str(path), hint="name the folder that holds config.json"
        )
    # The folder itself may be reached through a link (volumes are mounted so); what counts is what lies beneath.
    root = path.resolve()
    if not (root / CONFIG).exists() and not (root / CONFIG).is_symlink():
        raise BaseModelError(
            "the folder has no config.json", where=str(path / CONFIG), hint="name the folder that holds config.json"
        )
    return root


def _refuse_links(root: Path) -> None:
    for entry in sorted([*root.iterdir(), *root.glob("additional_chat_templates/*")]):
        if not entry.is_symlink():
            continue
        target = entry.resolve()
        if not target.is_relative_to(root):
            raise BaseModelError(
                "a symbolic link leads out of the model's folder",
                where=str(entry),
                hint="copy the real files into the folder (for a hub cache: `cp -rL SNAPSHOT FOLDER`)",
            )
        if not target.exists():
            raise BaseModelError("a symbolic link leads nowhere", where=str(entry), hint=FETCH_HINT)


def _refuse_adapter(root: Path) -> None:
    # transformers would follow its base_model_name_or_path to another folder, unseen.
    if (root / "adapter_config.json").exists():
        raise BaseModelError(
            "the folder holds an adapter, not a base model",
            where=str(root / "adapter_config.json"),
            hint="name the adapter's base model, or merge the two first and take adapter_config.json away",
        )


def _refuse_other_kinds(config: dict[str, Any]) -> None:
    names = config.get("architectures") or []
    fits = not names or any(CAUSAL.search(str(name)) for name in names)
    if config.get("is_encoder_decoder") or not fits:
        raise BaseModelError(
            f"{str((names or ['the model'])[0])[:80]} is not a decoder-only language model",
            where=CONFIG,
            hint="choose a causal language model (its architecture ends in ForCausalLM or LMHeadModel)",
        )


def _weights(root: Path) -> tuple[list[str], dict[str, weight_file.TensorEntry]]:
    """Names of the weight files in use and the tensors in them, all proven whole."""
    if (root / SINGLE).is_file():
        return [SINGLE], _tensors(root / SINGLE)
    if not (root / INDEX).is_file():
        raise _no_weights(root)
    placed = _weight_map(root / INDEX)
    shards = sorted(set(placed.values()))
    missing = [name for name in shards if not (root / name).is_file()]
    if missing:
        raise BaseModelError(
            f"{len(missing)} of {len(shards)} shards named in {INDEX} are missing, first {missing[0]}",
            where=str(root / missing[0]),
            hint="fetch the missing files into the model's folder",
        )
    found = {shard: _tensors(root / shard) for shard in shards}
    absent = [(tensor, shard) for tensor, shard in placed.items() if tensor not in found[shard]]
    if absent:
        tensor, shard = absent[0]
        raise BaseModelError(
            f"{INDEX} says that {tensor[:200]} is in this shard, but it is not",
            where=str(root / shard),
            hint=FETCH_HINT,
        )
    return shards, {name: entry for tensors in found.values() for name, entry in tensors.items()}


def _tensors(path: Path) -> dict[str, weight_file.TensorEntry]:
    try:
        tensors = weight_file.header(path).tensors
    except weight_file.BrokenWeightsError as error:
        raise BaseModelError(f"the weight file cannot be used: {error}", where=str(path), hint=FETCH_HINT) from error
    packed = sorted({entry.dtype for entry in tensors.values() if entry.dtype.startswith(("F8", "F6", "F4"))})
    if packed:
        raise BaseModelError(
            f"the weights are stored quantised ({', '.join(packed)})",
            where=str(path),
            hint="use the model's unquantised release (BF16, FP16 or FP32)",
        )
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    placed = config_file.read(path).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise BaseModelError("the shard index has no weight_map", where=str(path), hint=FETCH_HINT)
    for name in placed.values():
        if "/" in name or "\\" in name or name.startswith(".") or not name.endswith(".safetensors"):
            raise BaseModelError(
                f"the shard index names {name[:200]!r}, which is not a safetensors file of this folder",
                where=str(path),
                hint="a shard is a plain file name such as model-00001-of-00002.safetensors; fetch the model anew",
            )
    return dict(placed)


def _embedded_tokens(tensors: dict[str, weight_file.TensorEntry]) -> int:
    """The vocabulary's size by the embedding matrix, for a config.json that leaves it to its family's default."""
    return max((entry.shape[0] for name, entry in tensors.items() if EMBEDDING.search(name)), default=0)


def _no_weights(root: Path) -> BaseModelError:
    names = sorted(entry.name for entry in root.iterdir())
    pickled = [name for name in names if Path(name).suffix in PICKLES]
    if pickled:
        return BaseModelError(
            "the weights are stored as pickle, which runs code when it is read, and not as safetensors",
            where=str(root / pickled[0]),
            hint=SAVE_HINT,
        )
    other = [name for name in names if Path(name).suffix in OTHER_WEIGHTS]
    if other:
        return BaseModelError("weights of this format are not read", where=str(root / other[0]), hint=SAVE_HINT)
    return BaseModelError(
        f"the folder has no weights: neither {SINGLE} nor {INDEX}",
        where=str(root / SINGLE),
        hint="fetch the model's safetensors files into the folder",
    )


def _check_tokenizer(root: Path, vocabulary_size: int) -> None:
    path = root / TOKENIZER
    if not path.is_file():
        if (root / "vocab.json").is_file() and (root / "merges.txt").is_file():
            return
        raise BaseModelError(
            "the tokenizer is missing",
            where=str(path),
            hint="put the model's tokenizer.json and tokenizer_config.json into the folder",
        )
    highest = config_file.highest_token(path)
    if vocabulary_size and highest >= vocabulary_size:
        raise BaseModelError(
            f"the tokenizer has token {highest}, but the model knows only {vocabulary_size} tokens",
            where=str(path),
            hint="use the tokenizer that was published with this model",
        )


def _has_chat_template(root: Path) -> bool:
    if (root / "chat_template.jinja").is_file() or (root / "chat_template.json").is_file():
        return True
    path = root / "tokenizer_config.json"
    return path.is_file() and bool(config_file.read(path).get("chat_template"))


def _main_dtype(entries: list[weight_file.TensorEntry]) -> str:
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size_bytes
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return names[max(sizes, key=lambda dtype: sizes[dtype])] if sizes else "unknown"
