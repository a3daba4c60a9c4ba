"""Where a model's files are kept."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from dp_vllm.spec.fields import Bytes, Name, Part, text

MOUNTED_AT: Final = "/cache"
"""Where a replica finds the cache."""


class Claim(Part, frozen=True):
    """A PersistentVolumeClaim that the operator makes, and fills with the model before the first replica."""

    size: Annotated[
        Bytes, Meta(description="How much to ask for, as 200Gi. It may grow later, where the storage class allows it.")
    ]
    storage_class_name: Annotated[
        Annotated[
            str,
            text(
                r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?\Z",
                "the name of a storage class, or empty for a volume without one",
                253,
            ),
        ]
        | UnsetType,
        Meta(
            description="Storage class; the cluster's default if left out. Empty: a volume that exists and has none. "
            "Cannot be changed."
        ),
    ] = UNSET
    access_mode: Annotated[
        Literal["ReadWriteMany", "ReadWriteOnce"],
        Meta(
            description="ReadWriteMany for replicas on several nodes; with ReadWriteOnce all run on the node of the "
            "first. Cannot be changed."
        ),
    ] = "ReadWriteMany"
    retain: Annotated[
        bool, Meta(description="Whether the claim, and so the files, outlive the DPModel. The default is yes.")
    ] = True


class Cache(Part, frozen=True):
    """Where the model's files are kept: one of the fields, or none of them for each pod's own temporary disk.

    The kind of cache cannot be changed.
    """

    existing_claim: Annotated[
        Name | UnsetType, Meta(description="Name of a PersistentVolumeClaim that somebody else has made.")
    ] = UNSET
    claim: Annotated[Claim | UnsetType, Meta(description="A PersistentVolumeClaim that the operator makes.")] = UNSET
    host_path: Annotated[
        Annotated[
            str, text(r"^(/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+))+/?\Z", "an absolute path without `.` and `..`", 1024)
        ]
        | UnsetType,
        Meta(description="A directory of each node. Only a namespace that admits privileged pods takes such pods."),
    ] = UNSET
