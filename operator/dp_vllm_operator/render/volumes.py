"""Where a replica's files are: what is mounted into the engine's container, and which variables say so. Pure."""

from typing import Any, Final

from msgspec import UNSET

from dp_vllm.engine.hub import Fetched, fetched
from dp_vllm.spec import Cache
from dp_vllm.spec.cache import MOUNTED_AT
from dp_vllm_operator.revision import UserPart

Json = dict[str, Any]

PROGRAMS: Final = "/etc/dp-vllm"
"""The programs that run beside the engine."""
_HOME: Final = "/home/dp-vllm"
_TMP: Final = "/tmp"  # noqa: S108
_SHM: Final = "/dev/shm"  # noqa: S108
_OTHER_HUB: Final = "VLLM_USE_MODELSCOPE"


def programs_name(model: str) -> str:
    """The ConfigMap with the programs."""
    return f"{model}-engine-life"


def claim_name(model: str, cache: Cache) -> str | None:
    """The claim that holds a model's files; None if they are not in one."""
    if cache.claim is not UNSET:
        return f"{model}-cache"
    return None if cache.existing_claim is UNSET else cache.existing_claim


def download(part: UserPart) -> Fetched | None:
    """What a Job puts into the claim before any replica starts; None if there is no claim, or nothing for it there."""
    if claim_name("", part.cache) is None or any(one["name"] == _OTHER_HUB for one in part.engine.env):
        return None
    wanted = fetched(part.model, part.engine.args)
    return wanted if wanted.repositories else None


# What a template may have another of


def own_volumes(part: UserPart) -> list[Json]:
    volumes: list[Json] = [
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": part.engine.shm_size}},
    ]
    return volumes if fixed_cache("", part.cache) else [*volumes, {"name": "cache", "emptyDir": {}}]


def own_mounts(part: UserPart) -> list[Json]:
    mounts = [_mount("home", _HOME), _mount("tmp", _TMP), _mount("shm", _SHM)]
    return mounts if fixed_cache("", part.cache) else [*mounts, _mount("cache", MOUNTED_AT)]


def variables(part: UserPart) -> dict[str, str]:
    """Every place where an engine and its libraries write, and the name that they ask for: a bare user id has none."""
    places = {
        "HOME": _HOME,
        "XDG_CACHE_HOME": f"{_HOME}/.cache",
        "TMPDIR": _TMP,
        "HF_HOME": f"{MOUNTED_AT}/huggingface",
        "VLLM_CACHE_ROOT": f"{MOUNTED_AT}/vllm",
        "LOGNAME": "dp-vllm",
    }
    downloaded = download(part)
    return places | ({"HF_HUB_OFFLINE": "1"} if downloaded and downloaded.whole else {})


# What a template cannot change


def fixed_cache(model: str, cache: Cache) -> list[Json]:
    """The volume that the spec names for the cache, if it does."""
    if (claim := claim_name(model, cache)) is not None:
        return [{"name": "cache", "persistentVolumeClaim": {"claimName": claim}}]
    if cache.host_path is not UNSET:
        # A missing directory is an error: one that the kubelet makes belongs to root.
        return [{"name": "cache", "hostPath": {"path": cache.host_path, "type": "Directory"}}]
    return []


def fixed_volumes(model: str, part: UserPart) -> list[Json]:
    return [{"name": "dp-vllm", "configMap": {"name": programs_name(model)}}, *fixed_cache(model, part.cache)]


def fixed_mounts(part: UserPart) -> list[Json]:
    mounts = [_mount("dp-vllm", PROGRAMS) | {"readOnly": True}]
    return [*mounts, _mount("cache", MOUNTED_AT)] if fixed_cache("", part.cache) else mounts


def _mount(volume: str, path: str) -> Json:
    return {"name": volume, "mountPath": path}
