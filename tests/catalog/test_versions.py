"""Adding versions, finding them by reference and by digest, showing and removing them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from adreg.registry.catalog import (
    adapters,
    blobs,
    listing,
    marks,
    models,
    series,
    show,
    sources,
    versions,
)
from adreg.registry.catalog.engine import Catalog
from adreg.registry.catalog.records import (
    AdapterFacts,
    BaseRecord,
    Counts,
    ListQuery,
    ModelInput,
    ModelVersion,
    Note,
    Source,
    VersionKey,
)
from adreg.registry.catalog.schema import metadata
from adreg.registry.errors import AlreadyExists, NotFound
from adreg.registry.names import Reference, Tag

Add = Callable[..., VersionKey]
AddBase = Callable[..., BaseRecord]


def resolve(connection: Connection, text: str) -> VersionKey:
    """Resolve what a user wrote."""
    return versions.resolve(connection, Reference.parse(text))


def test_all_of_an_adapter_comes_back_as_it_went_in(
    catalog: Catalog, add_adapter: Add, add_base: AddBase, now: datetime
) -> None:
    """Every fact, file, mark and source is what was recorded, and times have their zone."""
    east = now.astimezone(timezone(timedelta(hours=5)))
    facts = AdapterFacts(
        peft_type="LORA",
        config='{"r": 16, "odd": [1e400]}',
        targets=("k_proj", "q_proj"),
        target_count=64,
        task_type="CAUSAL_LM",
        rank=16,
        rank_min=4,
        alpha=32.0,
        dropout=0.05,
        use_rslora=True,
        use_dora=True,
        bias="lora_only",
        fan_in_fan_out=True,
        rank_pattern={"q_proj": 4},
        alpha_pattern={"q_proj": 8.5},
        modules_to_save=("lm_head",),
        base_hint="meta-llama/Llama-3.1-8B",
        base_revision="abc",
        peft_version="0.21.2",
    )
    with catalog.write() as connection:
        base = add_base(connection, "llama")
        source = Source("hub", "me/run", east, "c0ffee")
        parts = {name: getattr(facts, name) for name in AdapterFacts.__dataclass_fields__}
        key = add_adapter(
            connection, "team/Support", base_id=base.id, source=source, at=east, **parts
        )
        marks.set_alias(connection, key, "prod", now)
        marks.set_tag(connection, key.id, Tag("team", "nlp"))
        marks.add_note(connection, key.id, "Grüße", east)
        connection.commit()

    with catalog.read() as connection:
        known = show.adapter(connection, resolve(connection, "team/support"))

    assert key == known.key
    assert "team/Support@1" == str(key)
    assert facts == known.facts
    assert base == known.base
    assert (1100, 500, "BF16", "apache-2.0") == (
        known.content.bytes,
        known.content.parameters,
        known.content.dtype,
        known.content.licence,
    )
    assert ["adapter_config.json", "adapter_model.safetensors"] == [
        file.name for file in known.content.files
    ]
    assert (source,) == known.sources
    assert (("prod",), (Tag("team", "nlp"),)) == (known.marks.aliases, known.marks.tags)
    assert (Note("Grüße", now),) == known.marks.notes
    assert (now, timezone.utc) == (known.created_at, known.created_at.tzinfo)
    assert known.latest


def test_all_of_a_model_comes_back_with_what_it_was_built_from(
    catalog: Catalog, add_adapter: Add, add_model: Add
) -> None:
    """A model tells its recipe and inputs in order, and each input tells the model."""
    with catalog.write() as connection:
        first, second = add_adapter(connection, "b"), add_adapter(connection, "a")
        key = add_model(connection, "merged", first, second)
        bigger = add_model(connection, "bigger", key)
        connection.commit()

    with catalog.read() as connection:
        known = show.either(connection, key)
        assert isinstance(known, ModelVersion)
        lineage = models.built_from(connection, first.id)
        by_recipe = models.find_by_recipe(connection, known.facts.recipe_digest)

    assert (ModelInput.of(first, 0.5), ModelInput.of(second, 0.5)) == known.inputs
    assert (Path("/models/merged"), {"r": 1}, None) == (
        known.facts.location,
        known.facts.recipe,
        known.facts.report,
    )
    assert (bigger,) == known.models
    assert (key,) == lineage
    assert (bigger, key) == by_recipe


def test_the_same_bytes_make_no_second_version(catalog: Catalog, add_adapter: Add) -> None:
    """Bytes that are a version already are refused under any name, and can be found."""
    with catalog.write() as connection:
        key = add_adapter(connection, "one", seed="same")

        with pytest.raises(AlreadyExists) as caught:
            add_adapter(connection, "two", seed="same")

        assert "one@1" == caught.value.text
        assert key == versions.find_by_digest(connection, "adapter", key.digest)
        assert versions.find_by_digest(connection, "model", key.digest) is None
        assert series.find(connection, "two") is None


def test_adapters_and_models_share_one_namespace(
    catalog: Catalog, add_adapter: Add, add_model: Add
) -> None:
    """A name of one kind is taken for the other, in whatever case it is written."""
    with catalog.write() as connection:
        add_adapter(connection, "Support")
        add_model(connection, "merged")

        with pytest.raises(AlreadyExists):
            add_model(connection, "support")
        with pytest.raises(AlreadyExists):
            add_adapter(connection, "MERGED")
        assert "Support@2" == str(add_adapter(connection, "SUPPORT"))


def test_a_reference_means_newest_number_or_alias(
    catalog: Catalog, add_adapter: Add, now: datetime
) -> None:
    """Without a selector and with ``latest`` it is the newest; else the number or the alias."""
    with catalog.write() as connection:
        first, second, third = (add_adapter(connection, "support") for _ in range(3))
        marks.set_alias(connection, second, "prod", now)

        assert third == resolve(connection, "support")
        assert third == resolve(connection, "support@latest")
        assert first == resolve(connection, "SUPPORT@1=0.5")
        assert second == resolve(connection, "support@prod")


@pytest.mark.parametrize(
    ("text", "close"),
    [
        ("suport", ("support",)),
        ("team/chatt", ("team/chat",)),
        ("quite-different", ()),
        ("support@prd", ("support@prod",)),
        ("support@7", ("support@2",)),
        ("support@99999999999999999999", ("support@2",)),
    ],
)
def test_what_is_not_found_comes_with_the_nearest(
    catalog: Catalog, add_adapter: Add, now: datetime, text: str, close: tuple[str, ...]
) -> None:
    """A typing error in the name, the alias or the number gets a suggestion."""
    with catalog.write() as connection:
        add_adapter(connection, "team/chat")
        add_adapter(connection, "support")
        marks.set_alias(connection, add_adapter(connection, "support"), "prod", now)

        with pytest.raises(NotFound) as caught:
            resolve(connection, text)

    assert close == caught.value.close


def test_suggestions_come_from_names_that_start_alike_once_there_are_many(
    catalog: Catalog, add_adapter: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large catalog is not read whole for a typing error."""
    monkeypatch.setattr(series, "_LOOKED_AT", 2)
    with catalog.write() as connection:
        for name in ("apple", "applet", "banana", "cherry"):
            add_adapter(connection, name)

        assert ("banana",) == series.close_names(connection, "banan")
        assert () == series.close_names(connection, "xanana")


def test_removing_a_version_frees_what_nothing_else_uses(
    catalog: Catalog, add_adapter: Add
) -> None:
    """Blobs that another adapter shares stay; the others are named; no number returns."""
    with catalog.write() as connection:
        first = add_adapter(connection, "support", shared="config")
        second = add_adapter(connection, "support", shared="config")
        config, weights = versions.files(connection, second.id)
        both = blobs.every(connection)

        assert (weights.sha256,) == versions.remove(connection, second)

        assert both.keys() - {weights.sha256} == blobs.every(connection).keys()
        assert (weights.sha256,) == blobs.unused(connection, [config.sha256, weights.sha256])
        assert first == resolve(connection, "support")
        assert "support@3" == str(add_adapter(connection, "support"))


def test_files_of_models_are_no_blobs(catalog: Catalog, add_model: Add) -> None:
    """A model's files lie in its own folder, so that the store never counts them."""
    with catalog.write() as connection:
        key = add_model(connection, "merged")

        assert {} == blobs.every(connection)
        assert () == versions.remove(connection, key)


def test_removing_by_force_keeps_the_lineage(
    catalog: Catalog, add_adapter: Add, add_model: Add
) -> None:
    """A model still tells the name, number, digest and weight of an input that is gone."""
    with catalog.write() as connection:
        key = add_adapter(connection, "support")
        model = add_model(connection, "merged", key)
        parent = series.get(connection, "support")
        assert (model,) == models.built_from_series(connection, parent.id)

        series.remove(connection, parent)

        assert (ModelInput(None, "support", 1, key.digest, 0.5),) == models.inputs(
            connection, model.id
        )


def test_removing_everything_leaves_no_row(
    catalog: Catalog, add_adapter: Add, add_model: Add, now: datetime
) -> None:
    """Whatever hangs on a version goes with it, and its series goes with the last one."""
    with catalog.write() as connection:
        key = add_adapter(connection, "support")
        marks.set_alias(connection, key, "prod", now)
        marks.set_tag(connection, key.id, Tag("gold"))
        marks.add_note(connection, key.id, "text", now)
        marks.add_metric(connection, key.id, "loss", 0.5, now)
        model = add_model(connection, "merged", key)
        versions.remove(connection, key)
        series.remove(connection, series.get(connection, "merged"))

        left = [
            name
            for name, table in metadata.tables.items()
            if connection.execute(select(table)).all()
        ]
        assert [] == left
        assert model.name not in series.close_names(connection, "merged")


def test_renaming_moves_all_versions_and_refuses_a_taken_name(
    catalog: Catalog, add_adapter: Add
) -> None:
    """The new name works for every version at once, the old one no longer; case may change."""
    with catalog.write() as connection:
        add_adapter(connection, "old")
        add_adapter(connection, "old")
        add_adapter(connection, "taken")
        old = series.get(connection, "old")

        with pytest.raises(AlreadyExists):
            series.rename(connection, old, "TAKEN")
        new = series.rename(connection, series.rename(connection, old, "new"), "New")

        assert ["New@1", "New@2"] == [str(key) for key in series.versions(connection, new)]
        assert series.find(connection, "old") is None
        assert ["New", "taken"] == [row.key.name for row in listing.rows(connection, ListQuery())]


def test_sources_are_kept_once_each_and_found(
    catalog: Catalog, add_adapter: Add, now: datetime
) -> None:
    """A version may come from many places; each is one row, found by place and revision."""
    with catalog.write() as connection:
        key = add_adapter(connection, "a", source=Source("path", "/runs/a", now))
        hub = Source("hub", "me/a", now, "c1")
        for source in (hub, hub, Source("path", "/runs/a", now + timedelta(days=1))):
            sources.add(connection, key.id, source)

        assert (Source("path", "/runs/a", now), hub) == sources.of(connection, key.id)
        assert (key,) == sources.find(connection, "hub", "me/a")
        assert (key,) == sources.find(connection, "hub", "me/a", "c1")
        assert () == sources.find(connection, "hub", "me/a", "c2")


def test_base_and_location_can_be_set_later(
    catalog: Catalog, add_adapter: Add, add_model: Add, add_base: AddBase
) -> None:
    """An adapter may find its base later, and a model may be moved."""
    with catalog.write() as connection:
        key, model = add_adapter(connection, "a"), add_model(connection, "m")
        base = add_base(connection, "llama")

        versions.set_base(connection, key.id, base.id)
        models.set_location(connection, model.id, Path("/elsewhere"))

        assert base == show.adapter(connection, key).base
        assert Path("/elsewhere") == models.facts(connection, model.id).location
        assert 8 == adapters.facts(connection, key.id).rank


def test_counts_name_every_kind(
    catalog: Catalog, add_adapter: Add, add_model: Add, add_base: AddBase
) -> None:
    """Names and versions are counted apart."""
    with catalog.write() as connection:
        assert Counts(0, 0, 0, 0, 0) == listing.counts(connection)
        add_base(connection, "llama")
        keys = [add_adapter(connection, name) for name in ("a", "a", "b")]
        add_model(connection, "m", *keys)

        assert Counts(2, 3, 1, 1, 1) == listing.counts(connection)
