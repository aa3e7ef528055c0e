"""Puts the crash test's layer into a process: files, encoder, tables, engine. Nothing in svd_batch knows of it."""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from crash import events, files
from crash.settings import Settings, from_text
from crash.watch import Watch

STAND_INS = {"svd_batch.engine.pipeline": "engine.py", "svd_batch.engine.machine": "machine.py"}
"""Modules that are other ones with the millisecond engine, which needs no torch."""


def install(text: str) -> None:
    """Install the layer that `Settings.to_text` describes."""
    settings = from_text(text)
    watch = Watch(settings)
    files.install(watch)
    patches: dict[str, Callable[[ModuleType], None]] = {
        "imageio_ffmpeg": lambda module: _watch_encoder(module, watch),
        "pyarrow.parquet": _open_here,
        "svd_batch.engine.pipeline": lambda module: _watch_engine(module, settings, watch),
    }
    sys.meta_path.insert(0, _Finder(patches, STAND_INS if settings.millisecond_engine else {}))
    atexit.register(_note_operations, watch)


def _note_operations(watch: Watch) -> None:
    if watch.num_operations:
        events.note(watch.settings.events, "operations", str(watch.num_operations))


class _Finder(MetaPathFinder):
    """Finds stand-ins, and patches some modules as soon as they are loaded."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]], stand_ins: dict[str, str]) -> None:
        self._patches, self._stand_ins = patches, stand_ins

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that isn't as usual."""
        if name not in self._patches and name not in self._stand_ins:
            return None
        if name in self._stand_ins:
            spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / self._stand_ins[name])
        else:
            others = (finder for finder in sys.meta_path if finder is not self)
            spec = next((s for finder in others if (s := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None and name in self._patches:
            _after_load(spec.loader, self._patches[name])
        return spec


def _after_load(loader: Loader, patch: Callable[[ModuleType], None]) -> None:
    load = loader.exec_module

    def load_and_patch(module: ModuleType) -> None:
        load(module)
        patch(module)

    loader.exec_module = load_and_patch  # type: ignore[method-assign]


def _watch_encoder(module: ModuleType, watch: Watch) -> None:
    """Tell of every frame that ffmpeg gets. It opens its file itself, so a fault there is always a full disk."""
    write_frames = module.write_frames

    def told(path: str, *arguments: Any, **options: Any) -> Any:
        place = watch.place(path) or ""
        try:
            watch.before("encode", place)
        except OSError:
            os.symlink("/dev/full", path)  # noqa: PTH211
            watch.disk_is_full()
        writer = write_frames(path, *arguments, **options)
        writer.send(None)
        try:
            while True:
                frame = yield
                writer.send(frame)
                watch.after("frame", place)
        finally:
            writer.close()

    module.write_frames = told  # type: ignore[attr-defined]


def _open_here(module: ModuleType) -> None:
    """Let pyarrow write through a file of Python's, which the layer sees."""
    write_table = module.write_table

    def told(table: Any, where: Any, *arguments: Any, **options: Any) -> None:
        if not isinstance(where, str | os.PathLike):
            write_table(table, where, *arguments, **options)
            return
        with open(where, "wb") as file:  # noqa: PTH123
            write_table(table, file, *arguments, **options)

    module.write_table = told  # type: ignore[attr-defined]


def _watch_engine(module: ModuleType, settings: Settings, watch: Watch) -> None:
    """Note every cell that is begun."""
    generate_batch = module.Engine.generate_batch

    def told(self: Any, picture: Any, asked: Any) -> Any:
        for cell, seed in asked:
            events.note(settings.events, "begin", events.cell_key(seed, asdict(cell)))
        made = generate_batch(self, picture, asked)
        watch.after("denoise", "")
        return made

    module.Engine.generate_batch = told
