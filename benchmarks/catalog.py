"""Listings, searches and size of a catalog with 100,000 adapters on 500 bases.

    python benchmarks/catalog.py [ADAPTERS]

The catalog is filled by a seeded generator, without files in the store: a listing reads
none. Each question is asked as a whole process, and inside Python.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from processes import in_turn, table
from sqlalchemy import Table, insert

from adreg.registry import Registry
from adreg.registry.catalog import schema
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import ListQuery
from adreg.registry.names import Tag

_BASES = 500
_START = datetime(2025, 1, 1, tzinfo=timezone.utc)
_CONFIG = json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "filler": "y" * 850})
"""As long as a configuration that PEFT 0.21 writes."""

Rows = dict[Table, list[dict[str, Any]]]

_SEARCH = "rank>=16 and base:model-4 and (type:dora or target:o_proj) and not tag:old tickets"


def _bases(rows: Rows) -> None:
    for number in range(1, _BASES + 1):
        name = f"org{number % 40}/model-{number}"
        rows[schema.base].append(
            {
                "id": number,
                "name": name,
                "name_key": name,
                "source_kind": "path",
                "location": f"/bases/{number}",
                "architecture": "LlamaForCausalLM",
                "model_type": "llama",
                "dtype": "BF16",
                "parameters": 10**9,
                "bytes": 2 * 10**9,
                "layout_digest": f"{number:064x}",
                "config_digest": f"{number:064x}",
                "created_at": _START,
            }
        )


def _adapter(rows: Rows, number: int, draw: random.Random) -> None:
    digest, at = f"{draw.getrandbits(256):064x}", _START + timedelta(minutes=number)
    what = draw.choice(["support", "chat", "code", "sql", "legal", "tone"])
    name = f"team{draw.randrange(50)}/{what}-{number}"
    rank = draw.choice([4, 8, 8, 16, 16, 16, 32, 64])
    rows[schema.series].append(
        {
            "id": number,
            "name": name,
            "name_key": name,
            "kind": "adapter",
            "last_number": 1,
            "created_at": at,
        }
    )
    rows[schema.version].append(
        {
            "id": number,
            "series_id": number,
            "name_key": name,
            "kind": "adapter",
            "number": 1,
            "digest": digest,
            "bytes": draw.randrange(10**6, 10**9),
            "parameters": draw.randrange(10**5, 10**8),
            "dtype": "BF16",
            "licence": draw.choice(["apache-2.0", "mit", None]),
            "base_id": 1 + int(_BASES * draw.random() ** 2),
            "peft_type": "LORA" if draw.random() < 0.95 else "LOHA",
            "rank": rank,
            "created_at": at,
        }
    )
    targets = ["q_proj", "v_proj", *(["o_proj"] if draw.random() < 0.1 else [])]
    rows[schema.adapter].append(
        {
            "version_id": number,
            "use_rslora": False,
            "use_dora": draw.random() < 0.05,
            "bias": "none",
            "fan_in_fan_out": False,
            "rank_pattern": {},
            "alpha_pattern": {},
            "modules_to_save": [],
            "targets": targets,
            "target_count": 64,
            "alpha": 2.0 * rank,
            "config": _CONFIG,
        }
    )
    rows[schema.target] += [{"version_id": number, "name": one} for one in targets]
    rows[schema.file] += [
        {
            "version_id": number,
            "name": f"adapter_{kind}",
            "sha256": f"{draw.getrandbits(256):064x}",
            "size": 1000,
        }
        for kind in ("model.safetensors", "config.json")
    ]
    rows[schema.source].append(
        {"version_id": number, "kind": "path", "location": f"/runs/{number}", "added_at": at}
    )
    if draw.random() < 0.3:
        key = draw.choice(["old", "reviewed", "lang"])
        value = draw.choice(["de", "en", "fr"]) if key == "lang" else ""
        folded = f"{key}={value}" if value else key
        tag = {"version_id": number, "key": key, "value": value, "folded": folded}
        rows[schema.tag].append(tag)
    if draw.random() < 0.2:
        text = f"trained on tickets of week {number % 53}"
        note = {"version_id": number, "text": text, "folded": text, "created_at": at}
        rows[schema.note].append(note)


def fill(home: Path, adapters: int) -> tuple[float, float]:
    """Fill a catalog; return its bytes for each adapter, and those of its configuration."""
    draw = random.Random(1)  # noqa: S311  # a benchmark's data
    registry = Registry(home)
    rows: Rows = {
        one: []
        for one in (
            schema.base,
            schema.series,
            schema.version,
            schema.adapter,
            schema.target,
            schema.file,
            schema.source,
            schema.tag,
            schema.note,
        )
    }
    _bases(rows)
    with Catalog(registry.settings).write() as connection:
        for number in range(1, adapters + 1):
            _adapter(rows, number, draw)
            if number % 5000 == 0 or number == adapters:
                for where, values in rows.items():
                    if values:
                        connection.execute(insert(where), values)
                        values.clear()
        connection.commit()
    size = sum(path.stat().st_size for path in home.glob("catalog*"))
    return size / adapters, float(len(_CONFIG))


def asked(home: Path) -> Mapping[str, Callable[[], object]]:
    """Return each question, asked inside Python."""
    registry = Registry(home)
    page, name = 50, name_of(registry)
    return {
        "list, first page": lambda: registry.list(ListQuery(limit=page)),
        "list, three filters": lambda: registry.list(
            ListQuery(
                base="org4/model-4",
                rank=16,
                tags=(Tag.parse("reviewed"),),
                text="support",
                limit=page,
            )
        ),
        "search, three conditions and a word": lambda: registry.list(
            ListQuery(where=_SEARCH, limit=page)
        ),
        "show": lambda: registry.show(name),
        "which fit this base": lambda: registry.list(ListQuery(base="org7/model-7", limit=page)),
    }


def name_of(registry: Registry) -> str:
    """Return some adapter's name."""
    (row,) = registry.list(ListQuery(limit=1)).rows
    return row.key.name


def main(adapters: int) -> None:
    """Print the tables."""
    adreg = shutil.which("adreg") or sys.exit("adreg is not on the PATH")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        each, config = fill(home, adapters)
        registry = Registry(home)
        name = name_of(registry)
        whole = {
            "list, first page": [adreg, "-q", "list"],
            "list, three filters": [
                *(adreg, "-q", "list", "support", "--base", "org4/model-4"),
                *("--rank", "16", "--tag", "reviewed"),
            ],
            "search, three conditions and a word": [adreg, "-q", "search", _SEARCH],
            "show": [adreg, "show", name],
            "which fit this base": [adreg, "-q", "list", "--base", "org7/model-7"],
        }
        processes = in_turn(whole, 5, {"ADREG_HOME": str(home)})
        rows = []
        for question, ask in asked(home).items():
            times = []
            for _ in range(11):
                start = time.perf_counter()
                ask()
                times.append(time.perf_counter() - start)
            inside = statistics.median(times[1:])
            row = (question, f"{processes[question].seconds:.2f}", f"{1000 * inside:.0f}")
            rows.append(row)
    table(f"A catalog of {adapters:,} adapters", ["question", "process s", "in Python ms"], rows)
    print(f"\n{each:,.0f} bytes an adapter, {config:,.0f} of them its configuration")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
