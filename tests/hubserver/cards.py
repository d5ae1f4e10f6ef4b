"""The model card's head: read, judged as the Hub judges it, and turned into tags."""

from __future__ import annotations

import re
from typing import Any

import yaml

# https://huggingface.co/docs/hub/repositories-licenses
LICENCES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
    cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research
    lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0
    postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other""".split()  # noqa: SIM905  (a list would be 80 lines)
)
RELATIONS = "adapter", "merge", "quantized", "finetune"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HEAD = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def card_data(readme: str) -> dict[str, Any]:
    """Return the metadata at the head of a card; ValueError if it is no YAML mapping."""
    head = _HEAD.match(readme)
    if head is None:
        return {}
    try:
        data = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError("Invalid YAML: the metadata must be a mapping")  # noqa: TRY004
    return data


def judge(readme: str) -> tuple[list[str], list[str]]:
    """Return the errors and warnings that the Hub has for a model card."""
    try:
        data = card_data(readme)
    except ValueError as error:
        return [str(error)], []
    warnings = [] if data else ["empty or missing yaml metadata in repo card"]
    return [*_base_errors(data.get("base_model", [])), *_other_errors(data)], warnings


def _base_errors(bases: object) -> list[str]:
    """Return what is wrong with the base models."""
    named = enumerate(bases) if isinstance(bases, list) else [(None, bases)]
    return [
        f'"base_model{"" if index is None else f"[{index}]"}" with value "{base}" is not valid. '
        "Use a model id from https://hf.co/models."
        for index, base in named
        if not isinstance(base, str) or not _is_model_id(base)
    ]


def _other_errors(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with the rest of the metadata."""
    errors = []
    licences = data.get("license", [])
    licences = licences if isinstance(licences, list) else [licences]
    if not {str(name) for name in licences} <= LICENCES:
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENCES))}]')
    if data.get("base_model_relation", "adapter") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    errors += [
        f'"{name}" must be an array of strings'
        for name in ("tags", "datasets")
        if not isinstance(data.get(name, []), list)
        or not all(isinstance(item, str) for item in data.get(name, []))
    ]
    errors += [
        f'"{name}" must be a string'
        for name in ("library_name", "pipeline_tag", "license_name", "license_link")
        if not isinstance(data.get(name, ""), str)
    ]
    return errors


def tags_of(data: dict[str, Any], names: list[str], *, has_peft: bool) -> list[str]:
    """Return the tags by which `list_models` finds a repo."""
    tags = [str(data["library_name"])] if data.get("library_name") else []
    if not tags and has_peft:
        tags.append("peft")
    if any(name.endswith(".safetensors") for name in names):
        tags.append("safetensors")
    tags += [tag for tag in data.get("tags") or [] if tag not in tags]
    bases = data.get("base_model") or []
    relation = data.get("base_model_relation") or ("adapter" if has_peft else "finetune")
    for base in bases if isinstance(bases, list) else [bases]:
        tags += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    if data.get("license"):
        tags.append(f"license:{data['license']}")
    return [*tags, "region:us"]


def _is_model_id(text: str) -> bool:
    """Return whether a text has the form of a Hub id, and none of a local path."""
    return bool(_REPO_ID.fullmatch(text)) and ".." not in text and "--" not in text
