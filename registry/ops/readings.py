"""What the catalog records of an adapter that was read."""

from __future__ import annotations

from adreg.registry import digest
from adreg.registry.adapters.config import rank_of
from adreg.registry.adapters.spec import AdapterSpec, Part
from adreg.registry.catalog.records import AdapterFacts, Content


def content_of(spec: AdapterSpec, licence: str | None) -> Content:
    """Return what the catalog records of an adapter's bytes; ``licence`` goes before the card's."""
    return Content(
        digest=digest.of_files(spec.files),
        bytes=sum(file.size for file in spec.files),
        parameters=spec.parameters,
        dtype=spec.dtype,
        files=spec.files,
        licence=licence or spec.licence,
    )


def facts_of(spec: AdapterSpec) -> AdapterFacts:
    """Return what the catalog records of an adapter's hyperparameters."""
    parts = {Part.FULL, Part.ROWS}
    modules = {tensor.module for tensor in spec.tensors if tensor.part not in parts}
    ranks = {rank_of(spec.lora, module) for module in modules} or {spec.lora.rank}
    return AdapterFacts(
        peft_type=spec.peft_type,
        config=spec.config_text,
        targets=spec.targets,
        target_count=spec.target_count,
        task_type=spec.task_type,
        rank=max(ranks) or None,
        rank_min=min(ranks) or None,
        alpha=spec.lora.alpha,
        dropout=spec.lora.dropout,
        use_rslora=spec.lora.use_rslora,
        use_dora=spec.lora.use_dora,
        bias=spec.lora.bias,
        fan_in_fan_out=spec.lora.fan_in_fan_out,
        rank_pattern=spec.lora.rank_pattern,
        alpha_pattern=spec.lora.alpha_pattern,
        modules_to_save=spec.modules_to_save,
        base_hint=spec.base_hint,
        base_revision=spec.base_revision,
        peft_version=spec.peft_version,
    )
