"""A fake cluster that answers the questions of the checks, and objects for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k8s.api.errors import ApiError
from k8s.api.objects import leave_out_unused
from k8s.render.render import GPU
from k8s.state.names import CLAIM
from tests.k8s.fakes import FakeCluster

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k8s.api.objects import Object

IMAGES = ("docker.io/library/mnist-job:dev", "registry.example/pause:3.10")


class CheckedCluster(FakeCluster):
    """A cluster that also answers preflight's questions.

    Args:
        objects: what there is.
        forbidden: kinds that this user may not ask for.
        may_not: verbs with their kinds, as `create Job`, that a review denies.
        refuses: what the API server says of a new object, by kind.
        only_dry_runs: True where it refuses only dry runs, False where it refuses all but dry runs, None for both.
        runs: the version.
        drops: fields of the spec whose feature gate is off, by kind.

    Attributes:
        listed: what the API server says to a list, by kind.
    """

    def __init__(
        self,
        *objects: Object,
        forbidden: Iterable[str] = (),
        may_not: Iterable[str] = (),
        refuses: dict[str, ApiError] | None = None,
        only_dry_runs: bool | None = None,
        runs: tuple[int, int] = (1, 35),
        drops: dict[str, list[str]] | None = None,
    ) -> None:
        super().__init__(*objects)
        self._forbidden, self._may_not, self._runs = set(forbidden), set(may_not), runs
        self._refuses, self._only_dry_runs = refuses or {}, only_dry_runs
        self._drops = drops or {}
        self.listed: dict[str, ApiError] = {}

    def version(self) -> tuple[int, int]:
        """The version."""
        return self._runs

    def may(self, verb: str, kind: str, subresource: str = "") -> bool:
        """A review."""
        return f"{verb} {kind}" + (f"/{subresource}" if subresource else "") not in self._may_not

    def get(self, kind: str, name: str) -> Object | None:
        """An object, if this user may read it."""
        self._permit(kind, "get")
        return super().get(kind, name)

    def select(self, kind: str, selector: str = "", fields: str = "", *, everywhere: bool = False) -> list[Object]:
        """All objects of a kind, if this user may list them."""
        self._permit(kind, "list")
        if kind in self.listed:
            raise self.listed[kind]
        if everywhere and kind != "Pod":
            found = super().select(kind, selector)
            return [one for one in found if fields in ("", f"metadata.name={one['metadata']['name']}")]
        assert fields == ("status.phase!=Succeeded,status.phase!=Failed" if everywhere else "")
        found = super().select(kind, selector)
        for one in found:
            leave_out_unused(one)
        return found

    def create(self, new: Object, *, dry_run: bool = False) -> Object:
        """Create an object without the fields that are dropped, unless it is refused."""
        if new["kind"] in self._refuses and self._only_dry_runs in (None, dry_run):
            raise self._refuses[new["kind"]]
        made = super().create(new, dry_run=dry_run)
        for field in self._drops.get(new["kind"], []):
            del made["spec"][field]
        return made

    def _permit(self, kind: str, verb: str) -> None:
        if kind in self._forbidden:
            raise denied(verb, f"{kind.lower()}s")


def denied(verb: str, what: str) -> ApiError:
    """The API server's refusal of something that this user may not do."""
    return ApiError(403, "Forbidden", f'{what} is forbidden: User "u" cannot {verb} resource "{what}"', "ask")


def named(kind: str, name: str, **fields: Any) -> Object:
    """An object."""
    return {"kind": kind, "metadata": {"name": name, **fields.pop("metadata", {})}, **fields}


def claim(*modes: str, phase: str = "Bound", of: str | None = None) -> Object:
    """The claim of the runs."""
    spec = {"accessModes": list(modes)} | ({"storageClassName": of} if of else {})
    return named("PersistentVolumeClaim", CLAIM, spec=spec, status={"phase": phase})


def storage_class(name: str = "fast", *, default: bool = False, binding: str = "Immediate") -> Object:
    """A storage class."""
    annotations = {"storageclass.kubernetes.io/is-default-class": str(default).lower()}
    return named("StorageClass", name, metadata={"annotations": annotations}, volumeBindingMode=binding)


def node(
    name: str, cpu: str = "4", gpus: int = 0, *, ready: bool = True, images: Iterable[str] = IMAGES, **spec: Any
) -> Object:
    """A node with 8 Gi of memory, and images of one name each."""
    allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
    conditions = [{"type": "Ready", "status": str(ready)}]
    of_every_node = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    labels = {"labels": of_every_node | spec.pop("labels", {})}
    listed = [{"names": [image], "sizeBytes": 10**9} for image in images]
    status = {"allocatable": allocatable, "conditions": conditions, "images": listed}
    return named("Node", name, metadata=labels, spec=spec, status=status)


def pod_on(where: str, cpu: str, name: str = "other") -> Object:
    """A pod that uses CPUs of a node."""
    spec = {"nodeName": where, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
    return named("Pod", name, spec=spec, status={"phase": "Running"})


def ready_cluster(**options: Any) -> CheckedCluster:
    """A cluster that can run the Job."""
    return CheckedCluster(
        named("Namespace", "here"), storage_class("fast", default=True), node("a"), node("b"), **options
    )
