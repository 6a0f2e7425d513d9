"""Holds a site's GPUs to the power of its level, through NVML, and gives back what they were held to before.

What a GPU was held to is written down before it is changed, by its UUID: the agent restores it from there after its trainer's end,
and at the beginning of the site's next life, where both have died.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windfall.store.files import read_json, write_json

#: In the site's folder: by UUID of a GPU, what it was held to (mW) before this site changed that.
LIMITS_NAME = "power-limits.json"
#: What comes back of a limit may be rounded by the driver (mW).
_ROUNDED_MW = 1000


class PowerCap:
    """Of one life of a site. ``hold`` and ``restore`` say what is wrong, or return an empty string."""

    def __init__(self, folder: Path, gpus: list[int] | None = None, library: Any = None) -> None:
        """``gpus``: their indices (default: all of the machine). ``library``: NVML (default: the package nvidia-ml-py)."""
        self._path, self._gpus, self._nvml = folder / LIMITS_NAME, gpus, library
        self._held_w: float | None = None
        self._trouble = ""

    def hold(self, watts: float | None) -> str:
        """Hold each GPU to so many watts; None: to what it was held to before. Asked for the same again, it does nothing."""
        if watts == self._held_w:
            return self._trouble
        self._held_w = watts
        self._trouble = self.restore() if watts is None else self._hold(watts)
        return self._trouble

    def _hold(self, watts: float) -> str:
        nvml = self._library()
        if nvml is None:
            return "nvidia-ml-py is not installed; run: pip install 'windfall[nvidia]'"
        wanted = round(watts * 1000.0)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as e:
            return f"NVML: {e}; is there an NVIDIA driver?"
        try:
            indices = range(nvml.nvmlDeviceGetCount()) if self._gpus is None else self._gpus
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in indices]
            if not handles:
                return "this machine has no GPU"
            found = self._before()
            for i, handle in zip(indices, handles, strict=True):
                least, most = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
                if wanted < least:
                    return f"GPU {i} can be held to {least / 1000:g} to {most / 1000:g} W, and not to {watts:g} W"
                found.setdefault(_uuid(nvml, handle), int(nvml.nvmlDeviceGetPowerManagementLimit(handle)))
            write_json(self._path, found)
            for i, handle in zip(indices, handles, strict=True):
                _, most = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
                limit = min(wanted, int(most))
                nvml.nvmlDeviceSetPowerManagementLimit(handle, limit)
                now = int(nvml.nvmlDeviceGetPowerManagementLimit(handle))
                if abs(now - limit) > _ROUNDED_MW:
                    return self._given_up(f"GPU {i} was to be held to {limit / 1000:g} W, and is at {now / 1000:g} W")
        except nvml.NVMLError as e:
            return self._given_up(f"NVML: {e}; holding GPUs to a power takes root, or CAP_SYS_ADMIN")
        except OSError as e:
            return f"what its GPUs were held to before cannot be kept: {e}"
        finally:
            _shut(nvml)
        return ""

    def _given_up(self, why: str) -> str:
        more = self.restore()
        return f"{why}; {more}" if more else why

    def restore(self) -> str:
        """Give back what was changed by this life or an earlier one."""
        before = self._before()
        if not before:
            return ""
        nvml = self._library()
        if nvml is None:
            return f"the power of its GPUs cannot be given back without nvidia-ml-py; {self._path} has what it was"
        left = dict(before)
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as e:
            return f"the power of its GPUs cannot be given back: {e}; {self._path} has what it was"
        why = ""
        for uuid, limit in before.items():
            try:
                nvml.nvmlDeviceSetPowerManagementLimit(nvml.nvmlDeviceGetHandleByUUID(uuid.encode()), limit)
                del left[uuid]
            except nvml.NVMLError as e:
                why = f"GPU {uuid} cannot be held to its {limit / 1000:g} W of before: {e}"
        _shut(nvml)
        try:
            if left:
                write_json(self._path, left)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as e:
            why = why or f"{self._path}: {e}"
        return why

    def _before(self) -> dict[str, int]:
        """What GPUs were held to before, of those that have been changed."""
        said = read_json(self._path)
        if not isinstance(said, dict):
            return {}
        return {str(uuid): limit for uuid, limit in said.items() if type(limit) is int and limit > 0}

    def _library(self) -> Any:
        if self._nvml is None:
            try:
                import pynvml  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                return None
            self._nvml = pynvml
        return self._nvml


def _uuid(nvml: Any, handle: Any) -> str:
    found = nvml.nvmlDeviceGetUUID(handle)
    return found.decode() if isinstance(found, bytes) else str(found)


def _shut(nvml: Any) -> None:
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return  # the driver has gone before
