"""The few objects that the local cluster makes itself."""

from pathlib import Path

from cluster.commands import Manifest

SIZE = "1Gi"  # storage has to have a size; nothing enforces it here


def volume(namespace: str, claim: str, path: Path, *, read_only: bool) -> list[Manifest]:
    """A folder of this machine as a PersistentVolume, bound to the claim that pods name."""
    mode = "ReadOnlyMany" if read_only else "ReadWriteMany"
    name = f"{namespace}-{claim}"
    common = {"accessModes": [mode], "storageClassName": ""}  # "": no provisioner looks for it
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **common,
                "capacity": {"storage": SIZE},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(path.resolve())},
                "claimRef": {"namespace": namespace, "name": claim},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": namespace, "name": claim},
            "spec": {**common, "volumeName": name, "resources": {"requests": {"storage": SIZE}}},
        },
    ]
