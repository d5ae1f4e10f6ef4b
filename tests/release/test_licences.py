"""The licence of a release."""

from __future__ import annotations

import pytest

from adreg.registry.errors import LicenceUnknown, NameRefused
from adreg.registry.release.licences import LicensedPart, release_licence

BASE = LicensedPart("base", "Apache-2.0")


def test_shared() -> None:
    """Parts under one licence make a release under it, however it is written."""
    assert release_licence([BASE, LicensedPart("a", "apache-2.0")]) == "apache-2.0"


def test_different() -> None:
    """Parts under different licences make ``other``."""
    assert release_licence([BASE, LicensedPart("a", "mit")]) == "other"


@pytest.mark.parametrize("licence", [None, "", "unknown"])
def test_unknown(licence: str | None) -> None:
    """A part without a licence is named, and the release refused."""
    with pytest.raises(LicenceUnknown) as caught:
        release_licence([BASE, LicensedPart("adapter a@1", licence)])

    assert caught.value.parts == ("adapter a@1",)


def test_unknown_allowed() -> None:
    """On request a release goes out without a licence."""
    assert release_licence([BASE, LicensedPart("a", None)], allow_unknown=True) is None


def test_given() -> None:
    """The licence that the user gives holds, whatever the parts say."""
    assert release_licence([LicensedPart("a", None)], "Llama3.2") == "llama3.2"


@pytest.mark.parametrize("text", ["", "see file", "a\nb", "unknown"])
def test_given_wrong(text: str) -> None:
    """What is no identifier is refused."""
    with pytest.raises(NameRefused):
        release_licence([BASE], text)
