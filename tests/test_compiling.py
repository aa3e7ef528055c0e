"""torch.compile: the same pixels, picture after picture, from one cache; and only where it pays."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import run_python
from parts import need

from svd_batch.config import Compile
from svd_batch.engine.compiling import Compiler, pays

SCRIPT = """
import json, sys, time
import numpy as np
import torch._dynamo
from pathlib import Path
from svd_batch.config import Compile, MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine.pipeline import Engine
from svd_batch.records import SweepCell

folder = Path(sys.argv[1])
model = ModelConfig(id=str(folder), name="tiny", num_frames=3, height=32, width=32)
cell = SweepCell(127, 0.02, 7, 2, 1.0, 3.0, 2)
pictures = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(2)]

def clips(compile):
    engine = Engine(folder, model, MemoryConfig(), SpeedConfig(compile=compile, batch_size=1), 1)
    return [engine.generate(picture, cell, 5).frames.astype(int) for picture in pictures]

eager, made = clips(Compile.off), {}
for mode in sys.argv[2:]:
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    apart = [int(abs(a - b).max()) for a, b in zip(eager, clips(Compile(mode)))]
    made[mode] = {
        "apart": apart,
        "graphs": counters["stats"]["unique_graphs"],
        "hits": counters["inductor"]["fxgraph_cache_hit"],
        "misses": counters["inductor"]["fxgraph_cache_miss"],
    }
print(json.dumps(made))
"""


def compiled(folder: Path, cache: Path, *modes: str) -> dict[str, dict[str, Any]]:
    """Make two clips eagerly and by each mode, in a process of its own; return what it counted by mode."""
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # else it starts a pool
    out = run_python(SCRIPT, str(folder), *modes, **environment).stdout
    made: dict[str, dict[str, Any]] = json.loads(out.splitlines()[-1])
    return made


@dataclass
class Twice:
    """What two processes counted that shared a cache: the first compiled regions, the second these and the whole."""

    first: dict[str, Any]
    second: dict[str, Any]
    whole: dict[str, Any]
    notes: Path


@pytest.fixture(scope="module")
def one_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose UNet has one level: each kind of block once, since compiling one takes long."""
    from pocket.architecture import SIZES, build_pipeline, save_pipeline

    folder = tmp_path_factory.mktemp("one_level")
    size = replace(SIZES["tiny"], unet_levels="A", unet_channels=(32,), unet_heads=(1,), up_levels="-")
    save_pipeline(build_pipeline(size, seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def twice(one_level: Path, tmp_path_factory: pytest.TempPathFactory) -> Twice:
    need("a C++ compiler", any(shutil.which(name) for name in ("g++", "clang++")))
    cache = tmp_path_factory.mktemp("cache")
    first = compiled(one_level, cache, "regional")
    notes = Path(shutil.copy(cache / "svd_batch_compile_s.json", cache / "after_the_first.json"))
    second = compiled(one_level, cache, "regional", "whole")
    return Twice(first["regional"], second["regional"], second["whole"], notes)


@pytest.mark.slow
def test_two_pictures_in_a_row_have_their_pixels_and_a_second_run_finds_the_code(twice: Twice) -> None:
    first, second = twice.first, twice.second
    assert max(first["apart"]) <= 1
    assert first["misses"] > 0
    assert (second["apart"], second["misses"]) == (first["apart"], 0)
    assert second["hits"] == first["hits"] + first["misses"]
    (seconds,) = json.loads(twice.notes.read_text()).values()
    assert seconds > 0


@pytest.mark.slow
def test_the_whole_unet_compiled_once_makes_two_pictures_in_a_row(twice: Twice) -> None:
    assert max(twice.whole["apart"]) <= 1
    assert twice.whole["graphs"] == 1


def test_compiling_pays_only_when_the_videos_to_come_win_its_time_back() -> None:
    assert pays(num_videos=1000, video_s=30, compile_s=180, gain=1.15)
    assert not pays(num_videos=10, video_s=30, compile_s=180, gain=1.15)
    assert not pays(num_videos=1000, video_s=30, compile_s=180, gain=1.0)


class OnGpu(torch.nn.Linear):
    """A UNet as far as the decision looks at one: it has parameters, and says that they are on a GPU."""

    def parameters(self, recurse: bool = True):  # type: ignore[no-untyped-def]
        return iter([type("Parameter", (), {"is_cuda": True})()])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path / "svd_batch_compile_s.json"


def test_auto_compiles_after_a_usual_batch_where_that_pays(cache: Path) -> None:
    compiler = Compiler(OnGpu(1, 1), Compile.auto, "key", num_videos=1000)
    compiler.measured(1, 30.0, is_usual=False)
    assert not compiler.is_compiled
    compiler.measured(1, 30.0, is_usual=True)
    assert compiler.is_compiled


def test_auto_does_not_compile_for_a_few_videos_unless_the_code_is_known_to_be_at_hand(cache: Path) -> None:
    compiler = Compiler(OnGpu(1, 1), Compile.auto, "key", num_videos=20)
    compiler.measured(1, 30.0, is_usual=True)
    assert not compiler.is_compiled
    cache.write_text(json.dumps({"key": 12.5}))
    compiler.measured(1, 30.0, is_usual=True)
    assert compiler.is_compiled


@pytest.mark.parametrize(
    "notes", ['{"another": 12.5}', "[1]", "{", '{"key": null}'], ids=["others", "list", "cut", "null"]
)
def test_without_a_usable_note_of_its_own_a_model_counts_on_the_usual_time_and_leaves_one(
    notes: str, cache: Path
) -> None:
    cache.write_text(notes)
    compiler = Compiler(OnGpu(1, 1), Compile.auto, "key", num_videos=20)
    compiler.measured(1, 30.0, is_usual=True)
    assert not compiler.is_compiled
    compiler.num_left = 1000
    compiler.measured(1, 30.0, is_usual=True)
    compiler.measured(1, 200.0, is_usual=True)
    assert json.loads(cache.read_text())["key"] == 200.0


def test_auto_goes_back_where_compiled_code_turns_out_slower(cache: Path) -> None:
    compiler = Compiler(OnGpu(1, 1), Compile.auto, "key", num_videos=1000)
    compiler.measured(1, 30.0, is_usual=True)
    compiler.measured(1, 200.0, is_usual=True)  # this one compiled
    assert compiler.is_compiled
    compiler.measured(1, 31.0, is_usual=True)
    assert not compiler.is_compiled
    compiler.measured(1, 30.0, is_usual=True)
    assert not compiler.is_compiled


def test_auto_never_compiles_on_a_cpu(cache: Path) -> None:
    compiler = Compiler(torch.nn.Linear(1, 1), Compile.auto, "key", num_videos=10**6)
    compiler.measured(1, 30.0, is_usual=True)
    assert not compiler.is_compiled
