"""Code, kernels and templates of others: named, and never run."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from adreg.registry import Registry
from adreg.registry.adapters.files import sort_files
from adreg.registry.adapters.refusals import steering
from adreg.registry.adapters.templates import (
    TemplateChange,
    changes,
    read_templates,
    template_fault,
)
from adreg.registry.errors import AdapterRefused

LEAVES_A_MARK = "from pathlib import Path\nPath({!r}).touch()\n"

HONEST: dict[str, Any] = {
    "model_type": "llama",
    "auto_map": {},
    "trust_remote_code": False,
    "_attn_implementation": "sdpa",
    "attn_implementation": None,
    "_attn_implementation_autoset": True,
    "text_config": {"hidden_size": 8, "attn_implementation": {"": "eager", "vision": "sdpa"}},
    "auto_mapping": {"parent_library": "transformers.models.llama.modeling_llama"},
}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map names code"),
        ({"a": {"b": {"auto_map": {"AutoModel": "o/r--x.Y"}}}}, "a.b.auto_map names code"),
        ({"trust_remote_code": True}, "trust_remote_code asks for code to be run"),
        ({"_attn_implementation": "o/evil-kernel"}, "_attn_implementation names kernels"),
        ({"_attn_implementation_internal": "o/r:f"}, "_attn_implementation_internal names kernels"),
        (
            {"text_config": {"attn_implementation": {"": "o/r"}}},
            "text_config.attn_implementation names kernels",
        ),
        ({"_experts_implementation": "o/r"}, "_experts_implementation names kernels"),
        ({"use_kernels": True}, "use_kernels asks for kernels of others"),
        ({"custom_pipelines": {"x": {"impl": "a.B"}}}, "custom_pipelines names code"),
        (
            {"auto_mapping": {"parent_library": "evil", "base_model_class": "B"}},
            "auto_mapping names a package to import",
        ),
    ],
)
def test_keys_that_choose_code(config: dict[str, Any], words: str) -> None:
    """Each is named with its place, at any depth; honest configurations have none."""
    assert [words] == steering(HONEST | config)
    assert [] == steering(HONEST)


def test_a_configuration_that_is_very_deep_and_wide() -> None:
    """Looking for keys neither recurses nor goes on for ever."""
    deep: dict[str, Any] = {}
    for _ in range(20_000):
        deep = {"a": deep}

    assert [] == steering(deep | {str(number): {"b": {}} for number in range(50_000)})


def test_code_beside_an_adapter(adapter: Path, home: Path) -> None:
    """Code is left out with its reason, keys that choose it are reported, none of it runs."""
    mark = adapter.parent / "mark"
    for name in ("handler.py", "modeling_evil.py", "evil.sh", "evil.so"):
        (adapter / name).write_text(LEAVES_A_MARK.format(str(mark)))
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Model"}}
    (adapter / "config.json").write_text(json.dumps({**auto_map, "model_type": "evil"}))
    (adapter / "tokenizer_config.json").write_text(json.dumps(auto_map))
    before = set(sys.modules)

    added = Registry().add(adapter)

    assert {"handler.py", "modeling_evil.py", "evil.sh", "evil.so"} <= dict(added.left_out).keys()
    assert [
        ("config.json", "auto_map names code"),
        ("tokenizer_config.json", "auto_map names code"),
    ] == (sort_files(adapter).not_followed)
    assert not mark.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name or "handler" in name]
    assert not list(home.rglob("*.py"))


def test_a_pickle_beside_an_adapter(adapter: Path, home: Path) -> None:
    """A pickle that would run something is left out, unread."""
    mark = adapter.parent / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (mark,))

    for name in ("adapter_model.bin", "optimizer.pt", "training_args.bin"):
        (adapter / name).write_bytes(pickle.dumps(Evil()))

    added = Registry().add(adapter)

    assert "a pickle, which could run code" == dict(added.left_out)["adapter_model.bin"]
    assert not mark.exists()
    assert not list(home.rglob("*.bin"))


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"],
)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"auto_map": null, "auto_map": {}}', "'auto_map' stands twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' stands twice"),
        ('{"a": "\\ud800"}', "half a character"),
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_json_beside_the_weights(adapter: Path, name: str, text: str, words: str) -> None:
    """What two readers can read differently is refused in every configuration that is kept."""
    (adapter / name).write_text(text)

    with pytest.raises(AdapterRefused, match=words) as raised:
        Registry().add(adapter, dry_run=True)
    assert f"'{name}'" in str(raised.value)


USUAL = (
    "{%- if tools %}{{ tools | tojson }}{% endif -%}\n"
    "{%- for m in messages if m.role != 'x' -%}\n"
    "{% generation %}{{ m['content'].strip() }}{% endgeneration %}\n"
    "{%- if loop.last %}{% break %}{% endif %}\n{%- endfor -%}"
    "{% set ns = namespace(a=1) %}{% macro f(x) %}{{ x }}{% endmacro %}"
    "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
)


def test_a_usual_template_is_in_order() -> None:
    """What transformers can compile parses here too, with its own tags."""
    _compile_jinja_template(USUAL)

    assert None is template_fault(USUAL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for x in y %}", "line 1 is no template"),
        ("a\n{{ b", "line 2 is no template"),
        ("{% evil %}", "line 1 is no template"),
        ("{{ ''.__class__.__mro__ }}", "it reaches for __class__, __mro__"),
        ("{{ x['__globals__'] }}", "it reaches for __globals__"),
        ("{{ x | attr('__init__') }}", "it reaches for __init__"),
        ("{{ cycler._x }}", "it reaches for _x"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "nested too deeply"),
        ("{{ " + "not " * 5000 + "x }}", "it is no template"),
        ("x" * (1 << 20) + "x", "longer than"),
    ],
)
def test_a_template_that_is_none_or_reaches_too_far(text: str, words: str) -> None:
    """Each is told of in words, and Python's own depth is never the end."""
    fault = template_fault(text)

    assert fault is not None
    assert words in fault
    assert fault.isprintable()


def test_a_template_is_never_rendered() -> None:
    """One that would take for ever, or all memory, is parsed in no time."""
    bomb = "{% for a in range(10**9) %}{{ 'x' * 10**9 }}{{ 9**9**9 }}{% endfor %}"

    assert None is template_fault(bomb)


def test_templates_as_transformers_finds_them(tmp_path: Path) -> None:
    """All places where they can stand are looked at; a file wins over tokenizer_config.json."""
    assert {} == read_templates(tmp_path)
    listed = [{"name": "default", "template": "one"}, {"name": "tool", "template": "two"}, {"x": 1}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert {"default": "one", "tool": "two"} == read_templates(tmp_path)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "three"}')
    assert {"default": "three", "tool": "two"} == read_templates(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("four")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("five")
    assert {"default": "four", "tool": "two", "rag": "five"} == read_templates(tmp_path)


def test_a_changed_template_is_shown() -> None:
    """Of those that changed come the lines, of the same ones nothing, and what is wrong."""
    base = {"default": "a\nb\nc", "same": "x"}
    new = {"default": "a\nB\nc", "same": "x", "tool": "{% evil %}"}

    one, other = changes(base, new)

    assert TemplateChange("default", ("@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"), None) == one
    assert "the chat template 'default' is another than the base's: +1 -1 lines" == one.summary
    assert ("@@ -0,0 +1 @@", "+{% evil %}") == other.diff
    assert other.summary.startswith("the chat template 'tool' is another than the base's: +1 -0")
    assert "line 1 is no template" in other.summary
    assert ("-0 lines", "+9,000 lines") == changes({}, {"default": "x\n" * 9000})[0].diff
