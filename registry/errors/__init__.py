"""Every error that leaves adreg, each with its facts as attributes.

    AdregError
    ├── NameRefused            a name, alias, tag or reference that the grammar forbids
    ├── NotFound               a reference that the catalog does not know
    ├── AlreadyExists          a name that is taken
    ├── InUse                  something that a model was built from
    ├── SearchRefused          a search that cannot be read
    ├── InputRefused           a file or folder that cannot be taken in
    │   ├── NotAnAdapter       no PEFT adapter in this folder
    │   ├── PickleRefused      a pickle that is not asked for, or asks for more than tensors
    │   ├── TensorFileBroken   a file of tensors that lies or is cut short
    │   ├── JsonBroken         a JSON file that cannot be read as what it should be
    │   ├── AdapterRefused     an adapter whose configuration and tensors disagree
    │   ├── BaseRefused        a folder that is no usable base checkpoint
    │   └── RecipeRefused      a recipe file with a mistake in it
    ├── Incompatible           an adapter that does not fit a base
    ├── MergeRefused           a merge that would be wrong, refused before a byte is written
    ├── AdapterNotMade         an adapter that cannot be made of what was given
    ├── OutputRefused          a place that must not be written to
    ├── WriteFailed            the disk said no
    │   └── DiskFull
    ├── LicenceUnknown         a release whose licences are not known
    ├── Damaged                stored bytes that are not what was recorded
    ├── LockBroken             a lock file that cannot be rebuilt from
    ├── NotReproduced          a rebuild whose bytes differ from the lock file
    ├── NotProven              a merged model that does not answer as base and adapters do
    ├── CardRefused            a model card that cannot be renewed, or that the Hub refuses
    ├── PushRefused            a push that would be wrong, refused before anything is sent
    ├── RemoteChanged          somebody else's commit that a push would have written over
    ├── HubError               the Hub said no
    │   ├── HubNotFound        not there, or hidden from this token
    │   │   ├── UnknownRepo
    │   │   ├── UnknownRevision
    │   │   └── UnknownFile
    │   ├── HubNoAccess        gated, private, or a token that may not
    │   ├── HubOffline         offline mode, or no way to the Hub
    │   ├── HubBusy            it failed at every try
    │   ├── HubConflict        it exists already, or somebody was faster
    │   └── HubDamaged         bytes that are not those that the Hub promises
    ├── CatalogError           the catalog cannot be used
    │   └── CatalogTooNew      it was written by a newer adreg
    ├── MissingPackage         an optional package is needed
    └── EngineFailed           machines that cannot be reached, differ, or were lost

``str(error)`` is one line that says what is wrong and with what; ``error.hint``
is one line that says what to do. Nobody matches on the text: the facts are
attributes.
"""

from adreg.registry.errors.base import AdregError
from adreg.registry.errors.hub import (
    HubBusy,
    HubConflict,
    HubDamaged,
    HubError,
    HubNoAccess,
    HubNotFound,
    HubOffline,
    UnknownFile,
    UnknownRepo,
    UnknownRevision,
)
from adreg.registry.errors.inputs import (
    AdapterRefused,
    BaseRefused,
    InputRefused,
    JsonBroken,
    LockBroken,
    NotAnAdapter,
    PickleRefused,
    RecipeRefused,
    TensorFileBroken,
)
from adreg.registry.errors.names import (
    AlreadyExists,
    InUse,
    NameRefused,
    NotFound,
    SearchRefused,
)
from adreg.registry.errors.outcomes import (
    AdapterNotMade,
    Damaged,
    DiskFull,
    Incompatible,
    LicenceUnknown,
    MergeRefused,
    NotProven,
    NotReproduced,
    OutputRefused,
    WriteFailed,
)
from adreg.registry.errors.pushing import CardRefused, PushRefused, RemoteChanged
from adreg.registry.errors.system import (
    CatalogError,
    CatalogTooNew,
    EngineFailed,
    MissingPackage,
)

__all__ = [
    "AdapterNotMade",
    "AdapterRefused",
    "AdregError",
    "AlreadyExists",
    "BaseRefused",
    "CardRefused",
    "CatalogError",
    "CatalogTooNew",
    "Damaged",
    "DiskFull",
    "EngineFailed",
    "HubBusy",
    "HubConflict",
    "HubDamaged",
    "HubError",
    "HubNoAccess",
    "HubNotFound",
    "HubOffline",
    "InUse",
    "Incompatible",
    "InputRefused",
    "JsonBroken",
    "LicenceUnknown",
    "LockBroken",
    "MergeRefused",
    "MissingPackage",
    "NameRefused",
    "NotAnAdapter",
    "NotFound",
    "NotProven",
    "NotReproduced",
    "OutputRefused",
    "PickleRefused",
    "PushRefused",
    "RecipeRefused",
    "RemoteChanged",
    "SearchRefused",
    "TensorFileBroken",
    "UnknownFile",
    "UnknownRepo",
    "UnknownRevision",
    "WriteFailed",
]
