"""Each refusal of a use case says what is wrong with what, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import factory
import pytest
from factory import edit_config
from workshop import Workshop, fill, make_workshop

from adreg.registry import Registry
from adreg.registry.adapters.peft_folder import read_adapter
from adreg.registry.catalog import adapters
from adreg.registry.catalog.records import AdapterFacts, Content, Source
from adreg.registry.digest import FileDigest, of_bytes, of_files
from adreg.registry.errors import AdapterRefused, AdregError
from adreg.registry.merge.recipe import Recipe, RecipeAdapter
from adreg.registry.ops.combine import Combination
from adreg.registry.ops.extract import Wish
from adreg.registry.ops.made_adapters import Wanted
from adreg.registry.ops.unmerge import check_subtractable

BOTH = ("team/one", "team/two")
DRY = Wanted(dry_run=True)
NO_WEIGHT = "Leave out '=' and the weight."
ONCE = "Name it once, with the sum of the weights."
FREE = "Name a folder that does not exist yet."


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The folders of a base and two adapters, a GPT-2, and an adapter that names no base."""
    root = tmp_path_factory.mktemp("shop")
    made = make_workshop(root)
    gpt2 = factory.make_base(root / "gpt2", "gpt2")
    factory.make_adapter(gpt2, root / "three")
    factory.make_base(root / "bert", "bert")
    edit_config(shutil.copytree(made.one, root / "nameless"), "base_model_name_or_path")
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, shop: Workshop) -> Registry:
    """A registry that merged them, in which no test changes anything."""
    filled = fill(Registry(tmp_path_factory.mktemp("home")), shop)
    root = shop.base.parent
    filled.add_base(str(root / "gpt2"), name="gpt", licence="mit")
    filled.add(root / "three", name="three", base="gpt")
    filled.add(root / "nameless", name="nameless")
    return filled


def recipe(*refs: str, base: str = "tiny", **more: str) -> Recipe:
    """Return a recipe of these adapters."""
    return Recipe(tuple(RecipeAdapter(ref) for ref in refs), base=base, **more)  # type: ignore[arg-type]  # the cases'


def combine(how: Combination, *refs: str, wanted: Wanted = DRY) -> Callable[[Registry], object]:
    """Return a combination of these adapters."""
    return lambda registry: registry.combine(refs, how, wanted)


CASES: dict[str, tuple[Callable[[Registry], object], str, str]] = {
    "note": (
        lambda r: r.note("team/one", " "),
        "the note '' is not allowed: it is empty",
        "Say something in it.",
    ),
    "metric": (
        lambda r: r.metric("team/one", {"a" * 50 + "/" + "b" * 50: 1.0}),
        "is not allowed: it is longer than 96 characters",
        "Choose a shorter name.",
    ),
    "number": (
        lambda r: r.metric("team/one", {"loss": float("nan")}),
        "the metric 'loss=nan' is not allowed: it is not a finite number",
        "Write it as loss=0.7.",
    ),
    "weight": (
        lambda r: r.note("team/one=2", "x"),
        "the reference 'team/one=2' is not allowed: a weight means nothing here",
        NO_WEIGHT,
    ),
    "bare": (
        lambda r: r.rename("team/one@1", "x"),
        "the name 'team/one@1' is not allowed: a name stands alone here, without version or weight",
        "Leave out what follows '@' or '='.",
    ),
    "history": (lambda r: r.history("nobody"), "there is no history of 'nobody'", "adreg list"),
    "base": (
        lambda r: r.merge(recipe("team/one", base="nobody"), dry_run=True),
        "there is no base 'nobody'",
        "Download it with `hf download nobody`.",
    ),
    "no base": (
        lambda r: r.check("nameless"),
        "there is no base known for 'nameless@1'",
        "Name it with --base: a name in the catalog, a folder, or OWNER/REPO.",
    ),
    "in use": (
        lambda r: r.remove("team/one"),
        "team/one is in use by bot@1",
        "Remove those first, or pass --force",
    ),
    "no adapters": (
        combine(Combination()),
        "no adapter was made: no adapter was named",
        "Name one or more.",
    ),
    "twice": (
        combine(Combination(), "team/one", "team/one@1"),
        "no adapter was made: team/one@1 is named twice",
        ONCE,
    ),
    "density": (
        combine(Combination("factors_ties", density=2.0), *BOTH),
        "no adapter was made: the density 2 is not above 0 and at most 1",
        "Pass --density, the share to keep: 0.5.",
    ),
    "rank": (
        combine(Combination("svd", rank=0), *BOTH),
        "no adapter was made: the rank 0 is not 1 or more",
        "Pass --rank 16, say.",
    ),
    "energy": (
        combine(Combination("svd", energy=1.5), *BOTH),
        "no adapter was made: the energy 1.5 is not above 0 and at most 1",
        "Pass --energy 0.95, say.",
    ),
    "nowhere": (
        combine(Combination(), *BOTH, wanted=Wanted()),
        "no adapter was made: it was not said where it goes",
        "Pass -o with a folder, --name, or both.",
    ),
    "a model's name": (
        combine(Combination(), *BOTH, wanted=Wanted(name="bot")),
        "the model 'bot' exists already",
        "Give the adapter another name with --name.",
    ),
    "resize": (
        lambda r: r.resize("team/one", DRY),
        "no adapter was made: neither a rank nor an energy was given",
        "Pass --rank or --energy.",
    ),
    "resize: weight": (
        lambda r: r.resize("team/one=2", DRY, rank=2),
        "the reference 'team/one=2' is not allowed: a weight means nothing here",
        NO_WEIGHT,
    ),
    "extract": (
        lambda r: r.extract("bot", "tiny", Wish(), DRY),
        "no adapter was made: neither a rank nor an energy was given",
        "Pass --rank or --energy.",
    ),
    "merge: twice": (
        lambda r: r.merge(recipe("team/one", "team/one@1"), dry_run=True),
        "not merged: team/one@1 is named twice",
        ONCE,
    ),
    "merge: method": (
        lambda r: r.merge(recipe(*BOTH, method="ties"), dry_run=True),
        "not merged: density: ties needs one, such as 0.5",
        "`adreg merge --help` names the methods.",
    ),
    "merge: several bases": (
        lambda r: r.merge(recipe("team/one", "three", base=""), dry_run=True),
        "not merged: the adapters are for several bases: gpt, tiny",
        "Pass --base.",
    ),
    "merge: no base": (
        lambda r: r.merge(recipe("nameless", base=""), dry_run=True),
        "there is no recorded base for 'nameless@1'",
        "Pass --base with a folder, or `adreg base add` it first.",
    ),
    "merge: another's name": (
        lambda r: r.merge(recipe("team/one"), name="team/two"),
        "the adapter 'team/two' exists already",
        "Give the model another name with --name.",
    ),
    "merge: does not fit": (
        lambda r: r.merge(recipe("three"), dry_run=True),
        "three@1 does not fit ",
        "Pass the base that it was trained on with --base; `adreg show` names it.",
    ),
    "try: nothing": (
        lambda r: r.try_out([], "a"),
        "the reference '' is not allowed: none was given",
        "Name one or more.",
    ),
    "try: does not fit": (
        lambda r: r.try_out(["three"], "a", base="tiny"),
        "three@1 does not fit tiny: the base has no tensor",
        "Pass the base that it was trained on with --base; `adreg show` names it.",
    ),
    "unmerge": (
        lambda r: r.unmerge("bot", ["nameless"]),
        "nameless@1 was not merged into bot@1; those that were: team/one@1, team/two@1",
        "To subtract it all the same: adreg merge REF=-1 --base FOLDER.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_words(registry: Registry, case: str) -> None:
    """What was asked and why not stand in one sentence, what to do in another; nothing changes."""
    ask, words, hint = CASES[case]
    before = registry.history()

    with pytest.raises(AdregError) as refused:
        ask(registry)

    assert words in refused.value.sentence
    assert hint in refused.value.hint
    assert "\n" not in refused.value.sentence + refused.value.hint
    assert before == registry.history()


def test_folders(registry: Registry, shop: Workshop, tmp_path: Path) -> None:
    """A folder where a name is meant, and one to write to that is an input, are named."""
    root = shop.base.parent
    asked: list[tuple[Callable[[], object], str, str]] = [
        (
            lambda: registry.note(str(shop.one), "x"),
            f"{shop.one}: a name from the catalog is needed here, not a folder",
            "It was added as team/one@1: use that name.",
        ),
        (
            lambda: registry.note(str(root), "x"),
            f"{root}: a name from the catalog is needed here, not a folder",
            f"Add it first: adreg add {root}",
        ),
        (
            lambda: registry.merge(recipe("team/one"), output=shop.base / "x"),
            f"cannot write to {shop.base / 'x'}: it is the base, or inside it",
            FREE,
        ),
        (
            lambda: registry.export("team/one", tmp_path / "x", licence="mit"),
            "team/one@1 is an adapter, which is exported as it is",
            "Leave out --license.",
        ),
        (
            lambda: registry.verify_merge("bot", base=str(root / "gpt2")),
            f"{root / 'gpt2'}: it has other tensors than tiny, the base of bot@1",
            "Name the base that it was merged into.",
        ),
        (
            lambda: registry.try_out([str(root / "bert")], "a"),
            f"{root / 'bert'}: BertForSequenceClassification answers no prompt",
            "Only models that generate text can be tried.",
        ),
        (
            lambda: registry.add_base(str(root / "gpt2"), name="tiny"),
            "the base 'tiny' exists already",
            "It has other tensors: choose another name.",
        ),
    ]
    for ask, words, hint in asked:
        with pytest.raises(AdregError) as refused:
            ask()
        assert words in refused.value.sentence
        assert hint == refused.value.hint


def test_repositories(home: Path) -> None:
    """A repository that nothing came from, and one that several adapters came from, are named."""
    registry, at = Registry(home), datetime(2026, 11, 1, tzinfo=timezone.utc)
    with registry._context.catalog.write() as connection:
        for name in ("first", "second"):
            file = FileDigest("adapter_model.safetensors", of_bytes(name.encode()), 1)
            content = Content(of_files([file]), 1, 1, "F32", (file,))
            source = Source("hub", "a/both", at, "c" * 40)
            facts = AdapterFacts("LORA", "{}", (), 0)
            adapters.add(connection, name, content, facts, source, base_id=None, at=at)
        connection.commit()

    with pytest.raises(AdregError) as refused:
        registry.show("hf://a/none")
    assert "there is no version from the Hub repository 'hf://a/none'" == refused.value.sentence
    assert "`adreg list` shows what there is." in refused.value.hint

    with pytest.raises(AdregError) as refused:
        registry.show("hf://a/both")
    assert "there is no single version from 'hf://a/both'" == refused.value.sentence
    assert "Did you mean 'first@1' or 'second@1'?" == refused.value.hint


def test_adapters_that_cannot_be_subtracted(shop: Workshop, tmp_path: Path) -> None:
    """A delta that is computed from W, by a start or by a variant of LoRA, cannot be taken out."""
    folder = shutil.copytree(shop.one, tmp_path / "it")
    hint = "Merge the other adapters into the base again, without this one."
    edit_config(folder, init_lora_weights="olora")
    with pytest.raises(
        AdapterRefused, match="init_lora_weights is 'olora': its delta is"
    ) as refused:
        check_subtractable("it", read_adapter(folder))
    assert hint == refused.value.hint

    edit_config(folder, init_lora_weights=True, kasa_config={"beta": 1})
    with pytest.raises(AdapterRefused, match="it is a variant of LoRA whose delta is") as refused:
        check_subtractable("it", read_adapter(folder))
    assert hint == refused.value.hint
