"""Whatever the bytes, readers return or raise an error of adreg's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adreg.registry.adapters.config import parse_config
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.errors import AdregError
from adreg.registry.tensors.header import read_header

FIELDS = st.sampled_from(
    [
        *("peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "bias"),
        *("alpha_pattern", "modules_to_save", "target_modules", "init_lora_weights", "task_type"),
        *("trainable_token_indices", "layer_replication", "lora_bias", "revision", "lora_dropout"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "X", "I64"]) | VALUES,
        "shape": st.lists(st.integers(-1, 4) | VALUES, max_size=4) | VALUES,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | VALUES,
    }
)
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes_as_weights(tmp_path: Path, data: bytes) -> None:
    """Random bytes are no header."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)

    with pytest.raises(AdregError):
        read_header(path)


@QUICK
@given(header=st.dictionaries(st.text(max_size=8), ENTRY | VALUES, max_size=3), body=st.binary())
def test_any_header(tmp_path: Path, header: dict[str, Any], body: bytes) -> None:
    """A header that parses says the truth about its file or is refused."""
    path = tmp_path / "x.safetensors"
    data = json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + body)

    try:
        file = read_header(path)
    except AdregError as error:
        assert str(error).isprintable()  # noqa: PT017  # not raising is right too
    else:
        assert sum(tensor.nbytes for tensor in file.tensors) == len(body)


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_flipped_bytes_of_a_header(adapter: Path, flips: list[tuple[int, int]]) -> None:
    """A real adapter with bytes changed is read or refused."""
    path = adapter / "adapter_model.safetensors"
    good = path.read_bytes()
    data = bytearray(good)
    for place, value in flips:
        data[place] = value
    path.write_bytes(data)

    try:
        read_adapter(adapter)
    except AdregError as error:
        assert error.sentence  # noqa: PT017  # not raising is right too
    finally:
        path.write_bytes(good)


@QUICK
@given(change=st.dictionaries(FIELDS | st.text(), VALUES, max_size=4))
def test_any_configuration(adapter: Path, change: dict[str, Any]) -> None:
    """A real adapter with fields changed is read or refused."""
    path = adapter / "adapter_config.json"
    good = adapter.parent / "good.json"
    if not good.exists():
        shutil.copy(path, good)
    path.write_text(json.dumps(json.loads(good.read_text()) | change))

    try:
        read_adapter(adapter)
    except AdregError as error:
        assert str(error).isprintable()  # noqa: PT017  # not raising is right too


@QUICK
@given(config=st.dictionaries(FIELDS, VALUES))
def test_parse_never_raises(config: dict[str, Any]) -> None:
    """Faults of a configuration are reasons."""
    fields = parse_config(config)

    assert fields.lora is not None or fields.reasons
