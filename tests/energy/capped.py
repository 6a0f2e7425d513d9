"""A double of the functions of NVML that hold GPUs to a power."""

from __future__ import annotations


class Gpus:
    """NVML's interface over GPUs that can be held to 100 to 400 W; ``refuses``: indices of those that may not be."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int = 2, *, limit_w: float = 350.0, refuses: tuple[int, ...] = (), driver: bool = True) -> None:
        self.limits = {i: round(limit_w * 1000) for i in range(count)}
        self.refuses, self.driver = set(refuses), driver
        self.deaf: set[int] = set()
        self.open = 0
        self.asked: list[tuple[int, int]] = []

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.limits)

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        if i not in self.limits:
            raise self.NVMLError("Invalid Argument")
        return i

    def nvmlDeviceGetUUID(self, i: int) -> bytes:
        return f"GPU-{i}".encode()

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> int:
        return self.nvmlDeviceGetHandleByIndex(int(uuid.decode().removeprefix("GPU-")))

    def nvmlDeviceGetPowerManagementLimitConstraints(self, i: int) -> list[int]:
        return [100_000, 400_000]

    def nvmlDeviceGetPowerManagementLimit(self, i: int) -> int:
        return self.limits[i]

    def nvmlDeviceSetPowerManagementLimit(self, i: int, limit: int) -> None:
        assert self.open > 0
        if i in self.refuses:
            raise self.NVMLError("Insufficient Permissions")
        self.asked.append((i, limit))
        if i not in self.deaf:
            self.limits[i] = limit
