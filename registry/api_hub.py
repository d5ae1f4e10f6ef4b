"""The use cases that bring things from the Hub, put them there, and look at what is there.

They are methods of ``Registry``, kept in a room of their own.
"""

# ruff: noqa: PLC0415  # imported when called: see ``api``

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adreg.registry.ops.context import Context
    from adreg.registry.ops.outdated import Standing
    from adreg.registry.ops.pull import PulledAll
    from adreg.registry.ops.push import Pushed
    from adreg.registry.ops.remotes import CheckedRemote, KnownRemote


class Shares(ABC):
    """What ``Registry`` shares with others."""

    @property
    @abstractmethod
    def _context(self) -> Context:
        """The registry's catalog, store, settings and progress."""

    def push(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        reference: str,
        repo: str,
        *,
        private: bool = False,
        revision: str = "main",
        message: str | None = None,
        create_pr: bool = False,
        tag: str | None = None,
        base_model: str | None = None,
        licence: str | None = None,
        allow_unknown_licence: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Pushed:
        """Put a version on the Hub in one commit, and record it; the same again makes none.

        What others have there stays: other files, the README but for adreg's section of
        it, and, unless ``overwrite``, what they changed in files of the version. Raises
        RemoteChanged, PushRefused, CardRefused, LicenceUnknown, HubError.
        """
        from adreg.registry.hub.client import HubClient
        from adreg.registry.ops.push import Target, push
        from adreg.registry.ops.push_parts import Licence

        target = Target(repo, revision, private, message, create_pr, tag, overwrite)
        return push(
            self._context,
            reference,
            target,
            HubClient(),
            base_model=base_model,
            licence=Licence(licence, allow_unknown_licence),
            dry_run=dry_run,
        )

    def remotes(self, reference: str | None = None) -> tuple[KnownRemote, ...]:
        """Return the copies on the Hub of one version or of all; ask nobody."""
        from adreg.registry.ops.remotes import list_remotes

        return list_remotes(self._context, reference)

    def check_remotes(self, reference: str | None = None) -> tuple[CheckedRemote, ...]:
        """Tell which copies on the Hub still have the version's files, and who changed others."""
        from adreg.registry.hub.client import HubClient
        from adreg.registry.ops.remotes import check_remotes

        return check_remotes(self._context, HubClient(), reference)

    def pull(  # noqa: PLR0913  # one argument for each thing that can be asked
        self,
        references: Iterable[str] = (),
        *,
        name: str | None = None,
        base: str | None = None,
        tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        note: str | None = None,
        licence: str | None = None,
        convert_pickle: bool = False,
        subfolder: str | None = None,
        every: bool = False,
        fetch_base: bool = False,
        owner: str | None = None,
        filters: Iterable[str] = (),
        dry_run: bool = False,
    ) -> PulledAll:
        """Pull adapters from the Hub, ``OWNER/REPO[@REVISION]`` each, and all of an ``owner``.

        Every file is hashed while it streams and compared with the Hub's digest; what was
        fetched before a failure is kept for the next time. The same again costs one
        request. Of one alone its error is raised, of several it is in the answer. Raises
        HubError and what ``add`` raises.
        """
        from adreg.registry.hub.client import HubClient
        from adreg.registry.hub.listing import models_of
        from adreg.registry.names import Tag
        from adreg.registry.ops.add import Wishes
        from adreg.registry.ops.hub_places import Choice
        from adreg.registry.ops.pull import pull, pull_owner

        client = HubClient()
        parsed = tuple(Tag.parse(one) for one in tags)
        wishes = Wishes(name, base, parsed, tuple(aliases), note, licence, convert_pickle)
        choice = Choice(subfolder, every, fetch_base)
        if owner is not None:
            found = models_of(client, owner, tuple(filters))
            return pull_owner(self._context, client, found, wishes, choice, dry_run=dry_run)
        return pull(self._context, client, references, wishes, choice, dry_run=dry_run)

    def outdated(self, names: Iterable[str] = ()) -> tuple[Standing, ...]:
        """Tell how each pulled adapter, or each of these, stands to the Hub; change nothing."""
        from adreg.registry.hub.client import HubClient
        from adreg.registry.ops.outdated import outdated

        return outdated(self._context, HubClient(), names)

    def update(
        self,
        names: Iterable[str] = (),
        *,
        tags: Iterable[str] = (),
        aliases: Iterable[str] = (),
        dry_run: bool = False,
    ) -> PulledAll:
        """Pull each pulled adapter, or each of these, again; a newer one is its next version."""
        from adreg.registry.hub.client import HubClient
        from adreg.registry.names import Tag
        from adreg.registry.ops.outdated import update

        return update(
            self._context,
            HubClient(),
            names,
            tuple(Tag.parse(one) for one in tags),
            tuple(aliases),
            dry_run=dry_run,
        )
