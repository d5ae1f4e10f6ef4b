"""The verdict on an adapter and a base."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adreg.registry.bases.verdict import Verdict, judge
from adreg.registry.errors import NotFound
from adreg.registry.ops.bases import OpenedBase, open_base, open_record
from adreg.registry.ops.context import Context
from adreg.registry.ops.specs import OpenedVersion, open_version

MISSING = frozenset({"base", "folder or model in the Hugging Face cache"})
"""What ``NotFound`` calls a base that is not here."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on an adapter and a base, and what the two are called."""

    adapter: str
    base: str
    base_folder: str
    verdict: Verdict


def check(context: Context, reference: str, base: str | None = None) -> Checked:
    """Judge an adapter against a base, from headers alone.

    ``base`` is what ``open_base`` takes; without it, the base that is recorded for the
    adapter, or that it names itself. One that is not in the Hugging Face cache is asked of
    the Hub, for its headers and no weights. Raises NotFound, NameRefused, BaseRefused,
    Damaged, HubError.
    """
    version = open_version(context, reference)
    try:
        return _judged(version, base_for(context, version, base))
    except NotFound as error:
        text = base or version.spec.base_hint
        if text is None or error.what not in MISSING:
            raise
        # A fifth of a second, which a base that is here does not need.
        from adreg.registry.hub.client import HubClient  # noqa: PLC0415
        from adreg.registry.ops.base_remote import remote_base  # noqa: PLC0415

        with remote_base(HubClient(), text) as opened:
            if opened is None:
                raise
            return replace(_judged(version, opened), base_folder=f"hf://{opened.name}")


def _judged(version: OpenedVersion, opened: OpenedBase) -> Checked:
    recorded = version.record.base if version.record is not None else None
    made_for = recorded.facts.layout_digest if recorded is not None else None
    verdict = judge(version.spec, opened.base, opened.known_names, made_for)
    return Checked(version.name, opened.name, str(opened.base.folder), verdict)


def base_for(context: Context, version: OpenedVersion, text: str | None = None) -> OpenedBase:
    """Open the base that is named, else that is recorded for the adapter, else that it names."""
    if text is not None:
        return open_base(context, text)
    if version.record is not None and version.record.base is not None:
        return open_record(version.record.base)
    hint = version.spec.base_hint
    if hint is None:
        advice = "Name it with --base: a name in the catalog, a folder, or OWNER/REPO."
        raise NotFound("base known for", version.name, advice=advice)
    return open_base(context, hint)
