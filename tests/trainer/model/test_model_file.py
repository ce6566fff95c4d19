"""What is said about a base model's folder before torch is imported, and each way in which it is refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny_models
from topcoat_trainer import config_file, files, model_file
from topcoat_trainer.errors import BaseModelError

EDITABLE = ("config.json", "tokenizer_config.json", "generation_config.json")
COUNTED = (
    "import sys, time, pathlib; from topcoat_trainer import model_file; start = time.perf_counter();"
    "model_file.inspect(pathlib.Path(sys.argv[1]));"
    "print(time.perf_counter() - start, [m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard(folder: Path) -> None:
    """Turns the single weight file into two shards with an index."""
    tiny_models.make("llama", folder, shard_bytes=60_000)
    (folder / "model.safetensors").unlink()


def test_the_facts_are_those_of_the_files(llama: Path) -> None:
    facts = model_file.inspect(llama)
    assert (facts.architecture, facts.model_type) == ("LlamaForCausalLM", "llama")
    assert (facts.layers, facts.hidden_size, facts.attention_heads) == (tiny_models.LAYERS, tiny_models.HIDDEN, 4)
    assert facts.vocabulary_size == len(tiny_models.tokenizer())
    assert (facts.dtype, facts.parameter_bytes) == ("float32", facts.parameters * 4)
    assert facts.max_positions == tiny_models.POSITIONS
    assert facts.has_chat_template
    assert facts.config_digest == files.sha256(llama / "config.json")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in facts.files}
    assert all(file.size_bytes == (llama / file.name).stat().st_size for file in facts.files)


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_layers_and_width_are_found_under_every_familys_own_names(family: str, folder: Callable[[str], Path]) -> None:
    facts = model_file.inspect(folder(family))
    assert (facts.layers, facts.hidden_size, facts.attention_heads) == (tiny_models.LAYERS, tiny_models.HIDDEN, 4)


def test_inspection_imports_no_torch_and_takes_less_than_a_second(llama: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(llama)], check=True, capture_output=True, text=True, timeout=60
    )
    seconds, heavy = done.stdout.strip().split(" ", 1)
    assert float(seconds) < 1
    assert heavy == "[]"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_the_digest_changes_with_any_byte_of_a_used_file(name: str, llama: Path) -> None:
    before = model_file.inspect(llama).digest
    assert model_file.inspect(llama).digest == before
    content = bytearray((llama / name).read_bytes())
    if name.endswith("json"):
        content += b"\n"
    else:
        content[-1] ^= 1
    (llama / name).write_bytes(content)
    assert model_file.inspect(llama).digest != before


def test_files_that_are_not_used_do_not_change_the_digest(llama: Path) -> None:
    before = model_file.inspect(llama).digest
    (llama / "README.md").write_text("hello")
    (llama / "pytorch_model.bin").write_bytes(b"pickle beside safetensors is never opened")
    assert model_file.inspect(llama).digest == before


def test_digests_of_large_files_may_be_remembered(llama: Path) -> None:
    asked: list[str] = []

    def remembered(path: Path) -> str:
        asked.append(path.name)
        return "0" * 64

    assert len(model_file.inspect(llama, remembered).files) == len(asked)


def test_shards_are_counted_together(llama: Path) -> None:
    whole = model_file.inspect(llama)
    shard(llama)
    parts = model_file.inspect(llama)
    assert parts.parameters == whole.parameters
    assert sum(file.name.startswith("model-") for file in parts.files) > 1
    assert "model.safetensors.index.json" in {file.name for file in parts.files}


def test_a_link_within_the_folder_and_a_linked_folder_are_fine(llama: Path, tmp_path: Path) -> None:
    (llama / "real.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors").symlink_to("real.safetensors")
    (tmp_path / "mounted").symlink_to(llama)
    assert model_file.inspect(tmp_path / "mounted").layers == tiny_models.LAYERS


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def checkpoint_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")


def gguf_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def auto_map(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})


def auto_map_of_the_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Evil", None]})


def nested_auto_map(folder: Path) -> None:
    edit(folder / "config.json", text_config={"deep": [{"auto_map": {"AutoConfig": "x.Y"}}]})


def auto_map_of_the_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"auto_map": {"AutoProcessor": "x.Y"}}')


def private_attention(folder: Path) -> None:
    edit(folder / "config.json", _attn_implementation_internal="someone/kernel")


def attention_of_a_repository(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="someone/kernel")


def attention_of_a_part(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation={"text_config": {"": "someone/kernel"}})


def custom_pipelines(folder: Path) -> None:
    edit(folder / "config.json", custom_pipelines={"text-generation": {"impl": "x.Y"}})


def custom_generate(folder: Path) -> None:
    edit(folder / "generation_config.json", custom_generate="someone/decoding")


def kernels(folder: Path) -> None:
    edit(folder / "config.json", kernel_config={"RMSNorm": "someone/kernel:RMSNorm"})


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def link_to_nothing(folder: Path) -> None:
    (folder / "merges.txt").symlink_to(folder / "gone.txt")


def climbing_shard(folder: Path) -> None:
    shard(folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../other/model.safetensors"})


def absolute_shard(folder: Path) -> None:
    shard(folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "/etc/model.safetensors"})


def pickled_shard(folder: Path) -> None:
    shard(folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "pytorch_model-00001.bin"})


def empty_index(folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def missing_shard(folder: Path) -> None:
    shard(folder)
    min(folder.glob("model-00002-*")).unlink()


def tensor_not_in_its_shard(folder: Path) -> None:
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    first = min(index["weight_map"].values())
    edit(folder / "model.safetensors.index.json", weight_map={**index["weight_map"], "ghost.weight": first})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def tokenizer_of_another_model(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=100)


def tokenizer_of_another_format(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": "b"}}}')


def short_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def long_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"tail")


def shard_cut_in_its_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])


def empty_shard(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def header_not_json(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"{{{{")


def _header(folder: Path, **tensor: Any) -> None:
    raw = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **tensor}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 4)


def overlapping_tensors(folder: Path) -> None:
    _header(folder, shape=[2])


def unknown_dtype(folder: Path) -> None:
    _header(folder, dtype="Q4_K")


def eight_bit_floats(folder: Path) -> None:
    _header(folder, dtype="F8_E4M3", shape=[4])


def quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def broken_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 32,')


def json_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def json_too_deep(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[" * 200_000)


def json_not_utf8(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_bytes(b'{"a": "\xff\xfe"}')


def no_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=0)


def adapter_folder(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/somewhere/else"}')


def encoder(folder: Path) -> None:
    edit(folder / "config.json", architectures=["BertForMaskedLM"])


def encoder_and_decoder(folder: Path) -> None:
    edit(folder / "config.json", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)


REFUSALS: dict[Callable[[Path], None], tuple[str, str]] = {
    no_config: ("config.json", "no config.json"),
    pickle_only: ("pytorch_model.bin", "pickle"),
    checkpoint_only: ("consolidated.00.pth", "pickle"),
    gguf_only: ("model-q4.gguf", "format"),
    no_weights: ("model.safetensors", "no weights"),
    auto_map: ("config.json", "'auto_map' would run code"),
    auto_map_of_the_tokenizer: ("tokenizer_config.json", "'auto_map' would run code"),
    nested_auto_map: ("config.json", "'auto_map' would run code"),
    auto_map_of_the_processor: ("preprocessor_config.json", "'auto_map' would run code"),
    private_attention: ("config.json", "'_attn_implementation_internal' would run code"),
    attention_of_a_repository: ("config.json", "'attn_implementation' would run code"),
    attention_of_a_part: ("config.json", "'attn_implementation' would run code"),
    custom_pipelines: ("config.json", "'custom_pipelines' would run code"),
    custom_generate: ("generation_config.json", "'custom_generate' would run code"),
    kernels: ("config.json", "'kernel_config' would run code"),
    link_out: ("model.safetensors", "leads out of"),
    link_to_nothing: ("merges.txt", "leads nowhere"),
    climbing_shard: ("model.safetensors.index.json", "'../other/model.safetensors'"),
    absolute_shard: ("model.safetensors.index.json", "'/etc/model.safetensors'"),
    pickled_shard: ("model.safetensors.index.json", "not a safetensors file"),
    empty_index: ("model.safetensors.index.json", "no weight_map"),
    missing_shard: ("model-00002-", "are missing"),
    tensor_not_in_its_shard: ("model-00001-", "ghost.weight"),
    no_tokenizer: ("tokenizer.json", "tokenizer is missing"),
    tokenizer_of_another_model: ("tokenizer.json", "knows only 100 tokens"),
    tokenizer_of_another_format: ("tokenizer.json", "not a tokenizer"),
    short_shard: ("model.safetensors", "cut short: 7 bytes"),
    long_shard: ("model.safetensors", "4 bytes stand behind"),
    shard_cut_in_its_header: ("model.safetensors", "ends within its header"),
    empty_shard: ("model.safetensors", "does not begin"),
    huge_header: ("model.safetensors", "does not begin"),
    header_not_json: ("model.safetensors", "not valid JSON"),
    overlapping_tensors: ("model.safetensors", "does not fit its shape"),
    unknown_dtype: ("model.safetensors", "unknown dtype"),
    eight_bit_floats: ("model.safetensors", "quantised (F8_E4M3)"),
    quantised: ("config.json", "quantised (gptq)"),
    broken_json: ("config.json", "not valid JSON (line 1)"),
    json_list: ("config.json", "not a JSON object"),
    json_too_deep: ("generation_config.json", "not valid JSON"),
    json_not_utf8: ("tokenizer_config.json", "not valid JSON"),
    no_layers: ("config.json", "num_hidden_layers"),
    adapter_folder: ("adapter_config.json", "an adapter, not a base model"),
    encoder: ("config.json", "BertForMaskedLM is not a decoder-only"),
    encoder_and_decoder: ("config.json", "not a decoder-only"),
}


@pytest.mark.parametrize("breakage", REFUSALS, ids=lambda breakage: breakage.__name__)
def test_a_model_that_is_broken_or_unsafe_is_refused_by_name(breakage: Callable[[Path], None], llama: Path) -> None:
    name, reason = REFUSALS[breakage]
    breakage(llama)
    with pytest.raises(BaseModelError) as refused:
        model_file.inspect(llama)
    assert name in refused.value.where
    assert reason in refused.value.message
    assert len(refused.value.hint) > 10


def test_a_folder_that_is_not_there_or_is_a_file_is_refused(llama: Path) -> None:
    for path in (llama / "nowhere", llama / "config.json"):
        with pytest.raises(BaseModelError, match="folder"):
            model_file.inspect(path)


def test_a_vocabulary_left_to_the_familys_default_is_read_from_the_weights(llama: Path) -> None:
    content = json.loads((llama / "config.json").read_text())
    size = content.pop("vocab_size")
    (llama / "config.json").write_text(json.dumps(content))
    assert model_file.inspect(llama).vocabulary_size == size


def test_a_built_in_attention_by_name_is_no_code() -> None:
    config_file.refuse_code(
        Path("config.json"), {"attn_implementation": "sdpa", "auto_map": None, "use_kernels": False}
    )
