"""Encodes the units of a corpus in several processes. Each finished unit is a piece on disk.

A process gets a unit as a line of JSON on its standard input, and answers with a line. Texts and tokens pass by file, and nothing
is pickled. The pieces do not depend on which process encodes which unit. These are processes and not threads, because parsing rows
and building arrays hold Python's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from windfall.errors import DataError
from windfall.train.corpus import Unit
from windfall.train.pieces import EncodingSettings, encode_unit
from windfall.train.telling import unwritable
from windfall.train.tokenizer import Tokenizer

Job = tuple[Unit, str]


def encode(
    jobs: Sequence[Job], settings: EncodingSettings, tokenizer: Tokenizer, workers: int, done: Callable[[Unit], None]
) -> None:
    """Encode units into the pieces named beside them; `done` is called after each, in the caller's thread.

    workers: processes; 1 encodes in this one. Raises DataError where a unit is no good (of several, the first in the
    corpus), or a process died.
    """
    if workers <= 1 or len(jobs) <= 1:
        for unit, name in jobs:
            encode_unit(unit, name, settings, tokenizer)
            done(unit)
        return
    pool = _Pool(jobs, settings, min(workers, len(jobs)))
    try:
        failed: dict[int, str] = {}
        for number, error in pool.results():
            if error:
                failed[number] = error
                pool.stop()
            else:
                done(jobs[number][0])
        if failed:
            raise DataError(failed[min(failed)])
    finally:
        pool.close()


class _Pool:
    """Processes and, for each, a thread that hands it one unit after the other."""

    def __init__(self, jobs: Sequence[Job], settings: EncodingSettings, workers: int) -> None:
        self._jobs = jobs
        self._settings = settings
        self._next = iter(range(len(jobs)))
        self._lock = threading.Lock()
        self._results: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        command = [sys.executable, "-m", "windfall.train.encoders"]
        self._logs = [Path(settings.folder) / f"worker-{i}.log" for i in range(workers)]
        self._processes: list[subprocess.Popen[str]] = []
        for log in self._logs:
            with log.open("wb") as errors:
                # In a group of its own, so that Ctrl-C only reaches this process. A worker ends when its standard input does.
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, process_group=0
                    )
                )
        self._threads = [
            threading.Thread(target=self._drive, args=pair, daemon=True)
            for pair in zip(self._processes, self._logs, strict=True)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[int, str]]:
        """Number of each unit when it is done, and what went wrong with it or an empty string."""
        running = len(self._threads)
        while running:
            result = self._results.get()
            if result is None:
                running -= 1
            else:
                yield result

    def stop(self) -> None:
        """Hand out no more units. Those that are begun are finished."""
        with self._lock:
            self._next = iter(())

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        self.stop()
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _take(self) -> int | None:
        with self._lock:
            return next(self._next, None)

    def _drive(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        first: dict[str, Any] | None = asdict(self._settings)
        while (number := self._take()) is not None:
            unit, name = self._jobs[number]
            try:
                if first is not None:
                    process.stdin.write(json.dumps(first) + "\n")
                    first = None
                process.stdin.write(json.dumps({"unit": asdict(unit), "name": name}) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                self._results.put((number, json.loads(answer)["error"]))
            except (OSError, ValueError, KeyError):
                code = process.wait()
                self._results.put((number, f"{unit.paths[0]}: a process that encoded it ended ({code}){_last_line(log)}; {_AGAIN}"))
                break
        self._results.put(None)


_AGAIN = "run the same again, with fewer --workers if memory was short"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f", last said {lines[-1]!r}" if lines else ""


def main() -> None:
    """A worker: the settings that all share on the first line, then a unit a line, until standard input ends."""
    lines = iter(sys.stdin.readline, "")
    settings = EncodingSettings(**json.loads(next(lines)))
    tokenizer: Tokenizer | None = None
    for line in lines:
        job = json.loads(line)
        unit = Unit(**{**job["unit"], "paths": tuple(job["unit"]["paths"])})
        error = ""
        try:
            tokenizer = tokenizer or settings.load_tokenizer()
            encode_unit(unit, job["name"], settings, tokenizer)
        except DataError as problem:
            error = str(problem)
        except OSError as problem:
            error = str(unwritable(settings.folder, problem))
        print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    # The tokenizer's own threads would only compete with the other processes.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    main()
