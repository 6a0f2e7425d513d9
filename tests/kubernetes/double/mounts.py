"""A pod's volumes as folders of this machine, and its command and environment with the paths put in their place.

There are no mount namespaces here. A path that a container mounts something at is replaced by the real folder wherever it stands by
itself in the container's command, arguments, environment or working directory.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from kubernetes.double.api import Api
from kubernetes.double.schema import Json


class NotMounted(Exception):
    """A volume that cannot be there yet, in the kubelet's words."""


class ConfigMissing(Exception):
    """Something that a container's environment refers to and that is not there."""


class Volumes:
    def __init__(self, api: Api, claim_folder: Callable[[Json], Path]) -> None:
        self._api = api
        self._claim_folder = claim_folder

    def set_up(self, pod: Json, folder: Path) -> dict[str, Path]:
        """Every volume's folder. Secrets and config maps are written anew where they changed.

        Raises:
            NotMounted: one of them cannot be made.
        """
        return {v["name"]: self._one(pod, v, folder / "volumes" / v["name"]) for v in pod["spec"].get("volumes") or []}

    def _one(self, pod: Json, volume: Json, place: Path) -> Path:
        namespace = pod["metadata"]["namespace"]
        if "persistentVolumeClaim" in volume:
            name = volume["persistentVolumeClaim"]["claimName"]
            claim = self._api.find("PersistentVolumeClaim", namespace, name)
            if claim is None or not claim["spec"].get("volumeName"):
                raise NotMounted(
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : persistentvolumeclaim "{name}" not found'
                )
            found = self._claim_folder(claim)
            found.mkdir(parents=True, exist_ok=True)
            return found
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        place.mkdir(parents=True, exist_ok=True)
        mode = next(
            (volume[s].get("defaultMode", 0o644) for s in ("secret", "configMap", "projected", "downwardAPI") if s in volume), 0o644
        )
        for source in (volume.get("projected") or {}).get("sources") or [volume]:
            self._write(pod, volume["name"], source, place, mode)
        return place

    def _write(self, pod: Json, volume: str, source: Json, place: Path, mode: int) -> None:
        namespace = pod["metadata"]["namespace"]
        for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if key not in source:
                continue
            about = source[key]
            name = about.get("secretName") or about.get("name")
            found = self._api.find(kind, namespace, name)
            if found is None and about.get("optional"):
                continue
            if found is None:
                raise NotMounted(f'MountVolume.SetUp failed for volume "{volume}" : {kind.lower()} "{name}" not found')
            data = contents(found)
            items = about.get("items") or [{"key": k, "path": k} for k in data]
            for wanted in items:
                if wanted["key"] not in data:
                    text = f"references non-existent {kind.lower()} key: {wanted['key']}"
                    raise NotMounted(f'MountVolume.SetUp failed for volume "{volume}" : {text}')
                _put(place / wanted["path"], data[wanted["key"]], wanted.get("mode", mode))
        for wanted in (source.get("downwardAPI") or {}).get("items") or []:
            _put(place / wanted["path"], field_of(pod, wanted["fieldRef"]["fieldPath"]).encode(), wanted.get("mode", mode))


def _put(path: Path, data: bytes, mode: int) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=mode)
    path.chmod(mode | 0o200)
    path.write_bytes(data)
    path.chmod(mode)


def contents(obj: Json) -> dict[str, bytes]:
    """What a secret or a config map holds."""
    if obj["kind"] == "Secret":
        return {k: base64.b64decode(v) for k, v in (obj.get("data") or {}).items()}
    plain = {k: v.encode() for k, v in (obj.get("data") or {}).items()}
    return plain | {k: base64.b64decode(v) for k, v in (obj.get("binaryData") or {}).items()}


def field_of(pod: Json, path: str) -> str:
    found = re.match(r"^metadata\.(labels|annotations)\['(.+)'\]$", path)
    if found:
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    at: object = {**pod, "status": {"hostIP": "127.0.0.1", "podIP": "127.0.0.1", **(pod.get("status") or {})}}
    for step in path.split("."):
        at = at.get(step, "") if isinstance(at, dict) else ""
    return str(at)


class View:
    """What one container sees: its paths, environment and command."""

    def __init__(self, api: Api, pod: Json, container: Json, volumes: dict[str, Path], base: dict[str, str], home: Path) -> None:
        self._api = api
        self._pod = pod
        self._container = container
        mounts = [
            (m["mountPath"].rstrip("/"), volumes[m["name"]] / m.get("subPath", "")) for m in container.get("volumeMounts") or []
        ]
        self._mounts = sorted(mounts, key=lambda m: -len(m[0]))
        for _, real in mounts:
            if not real.exists():
                real.mkdir(parents=True, exist_ok=True)
        self._home = home
        self.env = self._environment(base)

    def path(self, text: str) -> str:
        for seen, real in self._mounts:
            text = re.sub(rf"(?<![\w./-]){re.escape(seen)}(?=$|/|[^\w.-])", lambda _, r=real: str(r), text)  # type: ignore[misc]
        return text

    def _environment(self, base: dict[str, str]) -> dict[str, str]:
        namespace = self._pod["metadata"]["namespace"]
        env = {**base, "HOSTNAME": self._pod["metadata"]["name"], "HOME": str(self._home)}
        for source in self._container.get("envFrom") or []:
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in source:
                    found = self._api.find(kind, namespace, source[key]["name"])
                    if found is None and not source[key].get("optional"):
                        raise ConfigMissing(f'{kind.lower()} "{source[key]["name"]}" not found')
                    for name, value in (contents(found) if found else {}).items():
                        env[source.get("prefix", "") + name] = value.decode()
        for wanted in self._container.get("env") or []:
            value = self._value(wanted, namespace)
            if value is not None:
                env[wanted["name"]] = self.path(_expand(value, env))
        return env

    def _value(self, wanted: Json, namespace: str) -> str | None:
        source = wanted.get("valueFrom")
        if not source:
            return str(wanted.get("value", ""))
        if "fieldRef" in source:
            return field_of(self._pod, source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            which, _, name = source["resourceFieldRef"]["resource"].partition(".")
            return str((self._container["resources"].get(which) or {}).get(name, "0"))
        for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if key in source:
                ref = source[key]
                found = self._api.find(kind, namespace, ref["name"])
                if found is None or ref["key"] not in contents(found):
                    if ref.get("optional"):
                        return None
                    if found is None:
                        raise ConfigMissing(f'{kind.lower()} "{ref["name"]}" not found')
                    raise ConfigMissing(f"couldn't find key {ref['key']} in {kind} {namespace}/{ref['name']}")
                return contents(found)[ref["key"]].decode()
        return None

    def command(self, argv: list[str] | None = None) -> list[str]:
        """The container's command, or another that is run in it, with `$(NAME)` filled in."""
        if argv is None:
            argv = [*(self._container.get("command") or []), *(self._container.get("args") or [])]
        return [self.path(_expand(a, self.env)) for a in argv]

    def working_directory(self) -> Path:
        asked = self._container.get("workingDir")
        real = Path(self.path(asked)) if asked else self._home
        return real if real.is_dir() else self._home


def _expand(text: str, env: dict[str, str]) -> str:
    def fill(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return env.get(found[1], found[0])

    return re.sub(r"\$?\$\(([\w.-]+)\)", fill, text)


def clean_up(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
