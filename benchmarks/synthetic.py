"""Write a checkpoint of a Llama's shape with random bfloat16 weights, and adapters for it.

    python benchmarks/synthetic.py SIZE FOLDER

SIZE is one of SIZES. FOLDER/base and an adapter for each of ADAPTERS are made; those that
exist stay. Seeded; nothing but numpy and adreg's own
header writer, so a base of any size is written in constant memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from adreg.registry.tensors.encode import Entry, encode_header, shard_names, spread

SHARD = 1_500_000_000
PIECE = 1 << 22


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int

    def entries(self) -> Iterator[Entry]:
        """Give its tensors, with a tied head."""
        yield Entry("model.embed_tokens.weight", "BF16", (self.vocabulary, self.hidden))
        for layer in range(self.layers):
            for name, shape in self.linear().items():
                yield Entry(f"model.layers.{layer}.{name}.weight", "BF16", shape)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield Entry(f"model.layers.{layer}.{norm}.weight", "BF16", (self.hidden,))
        yield Entry("model.norm.weight", "BF16", (self.hidden,))

    def linear(self) -> dict[str, tuple[int, int]]:
        """Return (out, in) of a layer's linear modules."""
        kv = self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }

    def config(self) -> dict[str, object]:
        """Return what config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        }


SIZES: dict[str, Shape] = {
    "0.8GB": Shape(20, 1152, 4096, 18, 6, 32_000),
    "6.4GB": Shape(28, 3072, 8192, 24, 8, 128_256),
    "15GB": Shape(32, 4096, 14336, 32, 8, 128_256),
    "one tensor of 4GB": Shape(1, 2048, 1024, 16, 16, 1 << 20),
}


def write(path: Path, entries: list[Entry], seed: int, spread_of_values: float) -> None:
    """Write one safetensors file of seeded normal values."""
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(encode_header(entries, {"format": "pt"}))
        for entry in entries:
            dtype = np.dtype(ml_dtypes.bfloat16 if entry.dtype == "BF16" else np.float32)
            left = entry.nbytes // dtype.itemsize
            while left:
                count = min(left, PIECE)
                values = random.standard_normal(count, np.float32) * np.float32(spread_of_values)
                file.write(values.astype(dtype).tobytes())
                left -= count


def make_base(folder: Path, shape: Shape) -> None:
    """Write the base."""
    folder.mkdir(parents=True)
    shards = spread(shape.entries(), SHARD)
    names = shard_names(len(shards))
    for number, (name, entries) in enumerate(zip(names, shards, strict=True)):
        write(folder / name, entries, number, 0.02)
    weight_map = {e.name: n for n, shard in zip(names, shards, strict=True) for e in shard}
    total = sum(entry.nbytes for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2))


@dataclass(frozen=True)
class Kind:
    """An adapter to make: its rank and seed, and whether it has DoRA's magnitudes.

    ``targets``: a part of the names of the modules that it is on.
    """

    rank: int = 16
    seed: int = 99
    dora: bool = False
    targets: str = ""
    embedding: bool = False


ADAPTERS: dict[str, Kind] = {
    "r16": Kind(),
    "dora": Kind(dora=True),
    "attn64": Kind(rank=64, seed=98, targets="self_attn"),
    "second": Kind(seed=97),
    **{f"more{number}": Kind(seed=90 + number) for number in range(6)},
    "embedding": Kind(targets="q_proj", embedding=True),
}


def make_adapter(folder: Path, shape: Shape, kind: Kind) -> None:
    """Write a float32 LoRA, as PEFT would save it."""
    folder.mkdir(parents=True)
    entries, rank = [], kind.rank
    linear = {name: sizes for name, sizes in shape.linear().items() if kind.targets in name}
    if kind.embedding:
        stem = "base_model.model.model.embed_tokens"
        entries.append(Entry(f"{stem}.lora_embedding_A", "F32", (rank, shape.vocabulary)))
        entries.append(Entry(f"{stem}.lora_embedding_B", "F32", (shape.hidden, rank)))
    for layer in range(shape.layers):
        for name, (out, inner) in linear.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            entries.append(Entry(f"{stem}.lora_A.weight", "F32", (rank, inner)))
            entries.append(Entry(f"{stem}.lora_B.weight", "F32", (out, rank)))
            if kind.dora:
                entries.append(Entry(f"{stem}.lora_magnitude_vector", "F32", (out,)))
    write(folder / "adapter_model.safetensors", entries, kind.seed, 0.02)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "use_dora": kind.dora,
        "target_modules": [name.rpartition(".")[2] for name in linear]
        + ["embed_tokens"] * kind.embedding,
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def make(size: str, folder: Path) -> None:
    """Make what is missing of a size."""
    shape = SIZES[size]
    if not (folder / "base").exists():
        make_base(folder / "base", shape)
    for name, kind in ADAPTERS.items():
        if not (folder / name).exists():
            make_adapter(folder / name, shape, kind)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
