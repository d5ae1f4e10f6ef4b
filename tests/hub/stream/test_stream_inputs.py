"""What a streamed merge must have at hand: for all kinds of adapters and bases, and no more."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import factory
import peft
import pytest
import quantising
import torch
from hubserver import Fault, Hub
from hubserver.clients import environment
from running import Adreg
from safetensors.torch import load_file, save_file
from streaming import REPO, Weights, put

from adreg.registry.bases.base import read_base
from adreg.registry.merge.plan import Job, Plan, Shard
from adreg.registry.merge.run import Work
from adreg.registry.ops.streaming import Schedule

LINEAR = ["q_proj", "v_proj", "down_proj"]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder but the card, which names the base."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.name != "README.md"}


def both_ways(adreg: Adreg, adapter: Path, base: Path, out: Path, *more: str) -> None:
    """Merge into a base in its folder and into the one on the Hub; compare all bytes."""
    for name, way in (
        ("local", [str(base)]),
        ("streamed", [f"hf://{REPO}", "--stream", "--force"]),
    ):
        ran = adreg("merge", str(adapter), "-o", str(out / name), *more, "--base", *way)
        assert 0 == ran.code, ran.err
    assert files_of(out / "local") == files_of(out / "streamed")


KINDS: dict[str, peft.PeftConfig] = {
    "by PEFT's layers": peft.BOFTConfig(target_modules=LINEAR, boft_block_size=4),
    "shared": peft.VeraConfig(target_modules=["q_proj", "down_proj"], r=8),
    "with a shared bank": peft.VBLoRAConfig(
        target_modules=LINEAR, r=2, num_vectors=8, vector_length=16
    ),
    "with norms": peft.LoraConfig(target_modules=LINEAR, r=4, use_dora=True),
    "with a head": peft.LoraConfig(target_modules=LINEAR, r=4, modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter(
    online: Hub, adreg: Adreg, base_folder: Path, tmp_path: Path, kind: str
) -> None:
    """Whatever a tuner reads of the base is there when it does, and the bytes are the same."""
    put(online, base_folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        wrapped = peft.get_peft_model(factory.load_base(base_folder), KINDS[kind])
        factory.fill_adapter(wrapped, 3)
    wrapped.save_pretrained(str(tmp_path / "adapter"))

    both_ways(adreg, tmp_path / "adapter", base_folder, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own(online: Hub, adreg: Adreg, tmp_path: Path, tied: bool) -> None:
    """The embedding is here again when the head that was tied to it is made."""
    kind = "llama-tied" if tied else "llama"
    base = factory.make_base(tmp_path / "base", kind, shard_size=10_000)
    adapter = factory.make_adapter(base, tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    put(online, base)

    both_ways(adreg, adapter, base, tmp_path)


def test_a_quantised_base_in_pieces(
    online: Hub, adreg: Adreg, adapter_folder: Path, tmp_path: Path
) -> None:
    """Codes and scales that lie in different files are all here when a weight is decoded."""
    base = factory.make_base(tmp_path / "base")
    quantising.quantise(base, "AWQ")
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number in range(3):  # in turn, so that what belongs together is apart
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        part = dict(list(tensors.items())[number::3])
        save_file(part, base / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    put(online, base)

    both_ways(adreg, adapter_folder, base, tmp_path, "--dequantize", "--max-shard-size", "20KB")


def test_one_file(online: Hub, adreg: Adreg, adapter_folder: Path, tmp_path: Path) -> None:
    """A base of one file is merged like any other."""
    base = factory.make_base(tmp_path / "base")
    put(online, base)

    both_ways(adreg, adapter_folder, base, tmp_path)


def test_ctrl_c_does_not_wait_for_the_hub(
    online: Hub, base_folder: Path, adapter_folder: Path, home: Path, tmp_path: Path
) -> None:
    """While a download waits as long as the Hub asked for, Ctrl-C ends the merge at once."""
    put(online, base_folder)
    weights = Weights(online, base_folder)
    third = sorted(weights.sizes)[2]
    told = Fault(
        f"GET /cdn/.*{weights.address(third)}", "status", status=503, times=9, skip=1,
        headers={"Retry-After": "500"},
    )  # fmt: skip
    online.faults.append(told)
    env = environment(online, tmp_path / "hf") | {"ADREG_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    out = str(tmp_path / "out")
    command = ["merge", str(adapter_folder), "--base", f"hf://{REPO}", "--stream", "-o", out]
    with subprocess.Popen(
        [sys.executable, "-m", "adreg.cli", *command], env=env, stderr=subprocess.PIPE, text=True
    ) as child:
        deadline = time.monotonic() + 60
        while told.times == 9 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # the two shards before are finished
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)

    assert 130 == child.returncode
    assert "2 of 5 files are done and kept" in said
    assert time.monotonic() - begun < 20


def work_of(base_folder: Path, shards: list[list[str]]) -> Work:
    """Return a work that copies tensors of a base into shards."""
    base = read_base(base_folder)
    jobs = {t.name: Job(t.name, t.dtype, t.shape, "copy", t.name) for t in base.layout}
    made = tuple(
        Shard(f"{number}.safetensors", tuple(jobs[name] for name in names))
        for number, names in enumerate(shards)
    )
    plan: Any = Plan.__new__(Plan)
    return Work(plan, base, (), made, base_folder, None)


def test_the_room_that_is_asked_for_is_that_of_two_shards_and_what_is_kept(
    base_folder: Path,
) -> None:
    """A file that is needed again later is counted all the while, one that is not goes."""
    there = {file.path.name: file.tensors[0].name for file in read_base(base_folder).layout.files}
    first, second, third, fourth, *_ = sorted(there)
    sizes = {first: 1, second: 20, third: 300, fourth: 4000}

    def peak(*shards: list[str]) -> int:
        return Schedule.of(
            work_of(base_folder, [[there[name] for name in one] for one in shards])
        ).peak(sizes)

    assert 4300 == peak([first], [second], [third], [fourth])
    assert 4301 == peak([first], [second], [third], [fourth, first])
    assert 4321 == peak([first, second], [third, fourth])
    assert 1 == peak([first])


def test_a_header_that_is_not_that_of_the_file_is_found_out(
    online: Hub, adreg: Adreg, base_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    """No digest covers a header by itself: it is compared with the file's, and both named."""
    put(online, base_folder)
    weights = Weights(online, base_folder)
    second = sorted(weights.sizes)[1]
    place = (base_folder / second).read_bytes().index(b'"pt"') + 1
    assert place < 256
    online.faults.append(Fault(f"GET /cdn/.*{weights.address(second)}", "corrupt", place, times=1))

    ran = adreg(
        "merge", str(adapter_folder), "--base", f"hf://{REPO}", "--stream", "-o",
        str(tmp_path / "out"),
    )  # fmt: skip

    assert 1 == ran.code
    assert f"{REPO}/{second}: the Hub sent another header for it before" in ran.err
    assert not (tmp_path / "out").exists()


def test_too_little_room_is_said_before_a_shard_is_fetched(  # noqa: PLR0917  # fixtures
    online: Hub,
    adreg: Adreg,
    adapter_folder: Path,
    tmp_path: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The room for the parts of the base counts where they lie: no weight comes."""
    base = factory.make_base(tmp_path / "base", dtype=torch.float32)
    put(online, base)
    weights = Weights(online, base)
    monkeypatch.setenv("ADREG_HOME", str(small_disk / "home"))
    monkeypatch.setenv("ADREG_DATABASE_URL", f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 100_000))

    ran = adreg(
        "merge", str(adapter_folder), "--base", f"hf://{REPO}", "--stream",
        "-o", str(tmp_path / "out"),
    )  # fmt: skip

    assert 1 == ran.code
    assert "there is not enough room" in ran.err
    assert not weights.fetched()


def test_a_large_file_beside_the_weights_takes_no_memory(
    online: Hub, adreg: Adreg, base_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    """A tokenizer of 64 MiB is copied by pieces, and never held whole."""
    put(online, base_folder)
    large = tmp_path / "vocabulary.txt"
    large.write_bytes(bytes(64 << 20))
    online.commit(REPO, {large.name: large})

    tracemalloc.start()
    try:
        ran = adreg("merge", str(adapter_folder), "--base", f"hf://{REPO}", "--stream", "--dry-run")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 0 == ran.code, ran.err
    assert peak < 48 << 20
