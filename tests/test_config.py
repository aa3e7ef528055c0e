"""The typed configuration, and the files in conf/ that fill it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from svd_batch import config as config_module
from svd_batch.cli import conf_dir, store_schemas
from svd_batch.config import (
    BackendConfig,
    BackendKind,
    Codec,
    Compile,
    Config,
    Dtype,
    Fit,
    GenerationConfig,
    MemoryConfig,
    MetricsConfig,
    ModelConfig,
    Offload,
    RefineConfig,
    SpeedConfig,
    SweepConfig,
    VideoConfig,
    folder_settings,
    pixel_settings,
)
from svd_batch.errors import UserError
from svd_batch.explain import known_keys
from svd_batch.ids import fingerprint
from svd_batch.metrics import METRICS
from svd_batch.quality import PRESETS
from svd_batch.records import CELL_FIELDS, EXACT
from svd_batch.submit.settings import CLUSTERS

GROUP_FILES = sorted(f"{f.parent.name}/{f.stem}" for f in conf_dir().glob("*/*.yaml"))
DATACLASSES = [v for v in vars(config_module).values() if dataclasses.is_dataclass(v) and v.__name__.endswith("Config")]
DATACLASSES += CLUSTERS.values()
NAN, INF = math.nan, math.inf


def composed(*overrides: str) -> Config:
    """Return the Config that Hydra composes from the real files."""
    store_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        result = OmegaConf.to_object(compose("config", list(overrides)))
    assert isinstance(result, Config)
    return result


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (ModelConfig, "id", ""),
        (ModelConfig, "id", "  "),
        *((ModelConfig, "num_frames", v) for v in (0, -1, 1025, True)),
        *((ModelConfig, key, v) for key in ("height", "width") for v in (0, -8, 4, 65, 8200, True)),
        *((GenerationConfig, "motion_bucket_id", v) for v in (-1, 1024, 1.5, True)),
        *((GenerationConfig, "noise_aug_strength", v) for v in (-0.1, 101, NAN, INF)),
        *((GenerationConfig, "fps", v) for v in (0, 241)),
        *((GenerationConfig, "num_inference_steps", v) for v in (0, 1001)),
        *((GenerationConfig, "min_guidance_scale", v) for v in (-1, NAN, 101)),
        *((GenerationConfig, "max_guidance_scale", v) for v in (-1, INF, 101)),
        *((GenerationConfig, "decode_chunk_size", v) for v in (0, 1025)),
        *((GenerationConfig, "sampler", v) for v in ("heun", "", None, 10, ["ays10"])),
        *((GenerationConfig, key, v) for key in ("guidance_sigma_min", "guidance_sigma_max") for v in (-1, NAN, 1001)),
        *((GenerationConfig, "deep_cache_interval", v) for v in (0, 1001, 1.5, True)),
        *((VideoConfig, "quality", v) for v in (-0.1, 10.1, NAN, None)),
        *((VideoConfig, "playback_fps", v) for v in (0, 241, True)),
        *((BackendConfig, "num_actors", v) for v in (0, -1, 1.5, True, "2", [], [1], [2, 1], [0, 1], [1, 2, 3], "ab")),
        *((BackendConfig, "num_gpus", v) for v in (-0.5, NAN, 1.5, 65)),
        *((BackendConfig, "num_cpus", v) for v in (0, -1, NAN, INF, 1025)),
        *((BackendConfig, "torch_threads", v) for v in (0, 1025)),
        *((RefineConfig, "best", v) for v in (0, -1, 1.5, True)),
        *((RefineConfig, "target", v) for v in (-0.1, NAN, True)),
        *((RefineConfig, "metric", v) for v in ("", "beauty", "is_broken")),
        *((MetricsConfig, "names", v) for v in ("", "none", "motion", None, 3, ["beauty"], [True], {})),
        *((Config, "seed", v) for v in (-1, 2**63, True)),
        *((Config, "num_seeds", v) for v in (0, 100_001)),
        *((Config, "seeds", v) for v in ([], [1, 1], [-1], [2**63], "42", [1.5], [True], -1, {})),
        *((Config, "max_failed_fraction", v) for v in (-0.1, 1.1, NAN)),
        *((Config, "output", v) for v in ("", " ")),
        *((Config, "manifest", v) for v in ("", [], [""], 5, ["a", 5], {"a": 1})),
    ],
)
def test_a_value_out_of_range_is_refused_naming_its_key(kind: type, key: str, value: Any):
    section = {ModelConfig: "model.", GenerationConfig: "generation.", VideoConfig: "video.", BackendConfig: "backend."}
    section |= {RefineConfig: "refine.", MetricsConfig: "metrics."}
    with pytest.raises(UserError) as caught:
        kind(**{key: value})
    assert str(caught.value).startswith(section.get(kind, "") + key + ":")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (ModelConfig, "num_frames", 2),
        (ModelConfig, "height", 8),
        (ModelConfig, "width", 8192),
        (GenerationConfig, "motion_bucket_id", 0),
        (GenerationConfig, "noise_aug_strength", 0.0),
        (VideoConfig, "quality", 0.0),
        (VideoConfig, "quality", 10.0),
        (VideoConfig, "playback_fps", 240),
        (BackendConfig, "num_gpus", 0.5),
        (BackendConfig, "num_gpus", 2.0),
        (Config, "seed", 2**63 - 1),
        (Config, "max_failed_fraction", 0.0),
        (Config, "max_failed_fraction", 1.0),
    ],
)
def test_the_ends_of_a_range_are_accepted(kind: type, key: str, value: Any):
    assert getattr(kind(**{key: value}), key) == value


@pytest.mark.parametrize(
    ("given", "kept"), [(None, None), (3, [3, 3]), ([1, 4], [1, 4]), ((2, 2), [2, 2]), (100_000, [100_000, 100_000])]
)
def test_num_actors_is_a_number_or_a_pair(given: Any, kept: Any):
    assert BackendConfig(num_actors=given).num_actors == kept


@pytest.mark.parametrize(("given", "kept"), [(None, None), (42, [42]), ([42, 7], [42, 7]), ((0,), [0])])
def test_seeds_are_a_number_or_a_list_kept_in_order(given: Any, kept: Any):
    assert Config(seeds=given).seeds == kept


def test_num_seeds_and_seeds_exclude_each_other():
    with pytest.raises(UserError, match="num_seeds: it excludes seeds"):
        Config(num_seeds=2, seeds=[42])


@pytest.mark.parametrize(("given", "kept"), [(None, None), ("a.parquet", ["a.parquet"]), (["b", "a"], ["b", "a"])])
def test_a_manifest_is_a_name_or_a_list_of_names(given: Any, kept: Any):
    assert Config(manifest=given).manifest == kept


@pytest.mark.parametrize(
    ("codec", "quality", "embed"),
    [
        (Codec.h264, 6.5, True),
        (Codec.h264, 6.5, False),
        (Codec.webp, 8.5, False),
        (Codec.gif, None, False),
        (Codec.ffv1, None, True),
        (Codec.ffv1, None, False),
    ],
)
def test_a_codec_takes_the_settings_that_it_has(codec: Codec, quality: float | None, embed: bool):
    assert VideoConfig(codec, quality, None, embed).codec is codec


@pytest.mark.parametrize(
    ("codec", "quality", "embed", "key"),
    [
        (Codec.webp, 8.5, True, "embed_parameters"),
        (Codec.gif, None, True, "embed_parameters"),
        (Codec.gif, 5.0, False, "quality"),
        (Codec.ffv1, 5.0, True, "quality"),
        (Codec.webp, None, False, "quality"),
        (Codec.h264, None, True, "quality"),
    ],
)
def test_a_codec_refuses_the_settings_that_it_lacks(codec: Codec, quality: float | None, embed: bool, key: str):
    with pytest.raises(UserError, match=rf"^video\.{key}: "):
        VideoConfig(codec, quality, None, embed)


def test_guidance_that_runs_backwards_is_refused_before_anything_loads():
    with pytest.raises(UserError, match="min_guidance_scale=4 is above max_guidance_scale=3"):
        Config(generation=GenerationConfig(min_guidance_scale=4.0))


def test_a_sweep_over_the_maximum_may_lift_a_default_that_would_run_backwards():
    config = Config(generation=GenerationConfig(min_guidance_scale=4.0), sweep=SweepConfig(max_guidance_scale=[5, 6]))
    assert [c.max_guidance_scale for c in config.cells()] == [5.0, 6.0]


def test_a_wrong_axis_is_refused_with_the_whole_configuration():
    with pytest.raises(UserError, match=r"sweep\.fps"):
        Config(sweep=SweepConfig(fps=[5, 5]))


def test_the_default_cell_has_the_values_of_the_generation_section():
    generation = GenerationConfig(fps=12, noise_aug_strength=1)
    assert dataclasses.asdict(generation.cell()) == dataclasses.asdict(generation)


def test_sections_have_the_fields_of_a_cell_in_its_order():
    assert tuple(f.name for f in dataclasses.fields(GenerationConfig)) == CELL_FIELDS
    assert tuple(f.name for f in dataclasses.fields(SweepConfig)) == (*CELL_FIELDS, "cells")


def generation(*overrides: str) -> dict[str, Any]:
    """Return the approximations and the steps that Hydra composes."""
    composed_values = dataclasses.asdict(composed(*overrides).generation)
    return {name: composed_values[name] for name in ("num_inference_steps", *EXACT)}


def test_nothing_is_approximated_by_default():
    assert generation() == {"num_inference_steps": 25, **EXACT} == generation("quality=final", "model=svd_xt")


@pytest.mark.parametrize("name", ["preview", "draft"])
def test_a_quality_puts_its_preset_over_the_generation_settings_of_any_model(name: str):
    assert generation(f"quality={name}") == {**EXACT, **PRESETS[name]} == generation("model=svd", f"quality={name}")


def test_a_sampler_sets_its_steps_and_goes_before_a_quality():
    assert generation("sampler=ays10") == {"num_inference_steps": 10, **EXACT, "sampler": "ays10"}
    draft = generation("sampler=euler", "quality=draft")
    assert (draft["sampler"], draft["num_inference_steps"], draft["deep_cache_interval"]) == ("euler", 25, 2)


def test_a_value_on_the_command_line_goes_before_both():
    values = generation("quality=draft", "generation.deep_cache_interval=5", "generation.guidance_sigma_max=99")
    assert (values["deep_cache_interval"], values["guidance_sigma_max"], values["sampler"]) == (5, 99.0, "ays10")


@pytest.mark.parametrize(
    "overrides", [["sampler=ays10", "generation.num_inference_steps=25"], ["generation.sampler=ays10"]]
)
def test_ays10_with_another_number_of_steps_is_refused(overrides: list[str]):
    with pytest.raises(UserError, match="sampler=ays10 has 10 steps; num_inference_steps=25 is not accepted with it"):
        composed(*overrides)


# --- what makes an id, what a folder may not mix ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: setattr(c.model, "id", "org/other"), "model.id"),
        (lambda c: setattr(c.model, "variant", None), "model.variant"),
        (lambda c: setattr(c.model, "dtype", Dtype.bfloat16), "model.dtype"),
        (lambda c: setattr(c.model, "num_frames", 14), "model.num_frames"),
        (lambda c: setattr(c.model, "height", 128), "model.height"),
        (lambda c: setattr(c.model, "width", 128), "model.width"),
        (lambda c: setattr(c, "fit", Fit.pad), "fit"),
        (lambda c: setattr(c.video, "codec", Codec.ffv1), "video.codec"),
        (lambda c: setattr(c.video, "quality", 9.0), "video.quality"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_that_changes_pixels_is_among_the_pixel_settings(change: Any, key: str):
    config = Config()
    change(config)
    before, after = pixel_settings(Config(), "r"), pixel_settings(config, "r")
    assert {k for k in after if after[k] != before[k]} == {key}


def test_the_revision_of_the_weights_is_among_the_pixel_settings():
    assert pixel_settings(Config(), "one") != pixel_settings(Config(), "two")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c.memory, "offload", Offload.model),
        lambda c: setattr(c.memory, "forward_chunking", True),
        lambda c: setattr(c.memory, "split_guidance", True),
        lambda c: setattr(c.speed, "temporal_conv2d", False),
        lambda c: setattr(c.backend, "num_gpus", 2.0),
        lambda c: setattr(c.backend, "num_actors", [4, 4]),
        lambda c: setattr(c.model, "name", "other"),
        lambda c: setattr(c.model, "license", "other"),
        lambda c: setattr(c, "output", "elsewhere"),
        lambda c: setattr(c, "manifest", ["elsewhere.parquet"]),
        lambda c: setattr(c, "num_seeds", 5),
        lambda c: setattr(c.sweep, "fps", [5, 6]),
        lambda c: setattr(c, "verbose", True),
    ],
)
def test_what_changes_no_pixels_is_mixed_freely_in_one_folder(change: Any):
    before, after = Config(), Config()
    change(after)
    assert folder_settings(before, "r") == folder_settings(after, "r")


def test_a_folder_may_not_mix_pixel_settings_playback_fps_or_base_seeds():
    config = Config(seed=7, video=VideoConfig(playback_fps=12))
    assert folder_settings(config, "r") == {
        **pixel_settings(config, "r"),
        "video.playback_fps": 12,
        "seed": 7,
    }


def test_lists_of_seeds_may_grow_in_one_folder_but_not_mix_with_a_base_seed():
    grown = folder_settings(Config(seeds=[1, 2]), "r")
    assert folder_settings(Config(seeds=[1]), "r") == grown
    assert folder_settings(Config(), "r") != grown


def test_a_whole_quality_makes_the_same_ids_as_the_same_decimal():
    whole, decimal = Config(video=VideoConfig(quality=6)), Config(video=VideoConfig(quality=6.0))
    assert fingerprint(pixel_settings(whole, "r")) == fingerprint(pixel_settings(decimal, "r"))


# --- the files in conf/ -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUP_FILES)
def test_every_file_in_conf_composes_into_a_valid_configuration(name: str):
    group, option = name.split("/")
    plus = "+" if group in ("sweep", "logger") else ""
    assert composed(f"{plus}{group}={option}")


def test_every_group_has_a_file():
    assert {name.split("/")[0] for name in GROUP_FILES} == {
        "backend",
        "cluster",
        "generation",
        "logger",
        "memory",
        "model",
        "quality",
        "refine",
        "sampler",
        "speed",
        "sweep",
        "video",
    }


def keys_of(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested mappings."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict) and value:
            yield from keys_of(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", GROUP_FILES)
def test_every_key_in_conf_is_a_field(name: str):
    text = (conf_dir() / f"{name}.yaml").read_text()
    package = next((line.split()[-1] for line in text.splitlines() if "@package" in line), name.split("/")[0])
    prefix = "" if package == "_global_" else f"{package}."
    node = yaml.safe_load(text) or {}
    node.pop("defaults", None)  # Hydra's own
    assert set(keys_of(node, prefix)) <= set(known_keys())


def test_every_key_of_the_main_file_is_a_field():
    node = yaml.safe_load((conf_dir() / "config.yaml").read_text())
    keys = set(node) - {"defaults", "hydra"}
    assert keys <= {f.name for f in dataclasses.fields(Config)}


def test_the_main_file_shows_every_setting_outside_the_groups():
    node = yaml.safe_load((conf_dir() / "config.yaml").read_text())
    groups = {folder.name for folder in conf_dir().iterdir() if folder.is_dir()}
    assert {f.name for f in dataclasses.fields(Config)} - groups == set(node) - {"defaults", "hydra"}
    for name, hint in get_type_hints(Config).items():
        if dataclasses.is_dataclass(hint) and name not in groups:
            assert {f.name for f in dataclasses.fields(hint)} == set(node[name])


@pytest.mark.parametrize("name", GROUP_FILES)
def test_every_file_in_conf_begins_with_a_line_that_says_what_it_is(name: str):
    lines = (conf_dir() / f"{name}.yaml").read_text().splitlines()
    said = [line for line in lines[:2] if line.startswith("# ") and "@package" not in line]
    assert said


def test_the_files_defaults_are_the_dataclasses_defaults_but_for_the_model():
    config = composed()
    expected = dataclasses.replace(Config(), generation=GenerationConfig(max_guidance_scale=1.5))
    assert config == expected


def test_a_model_may_override_generation_and_the_command_line_overrides_both():
    assert composed("model=pocket").generation.max_guidance_scale == 1.5
    assert composed("model=svd").generation.max_guidance_scale == 3.0
    assert composed("model=pocket", "generation.max_guidance_scale=2.5").generation.max_guidance_scale == 2.5


def test_the_motion_sweep_is_the_grid_of_three_by_three_that_the_demo_runs():
    cells = composed("+sweep=motion").cells()
    assert [(c.motion_bucket_id, c.noise_aug_strength) for c in cells] == [
        (m, n) for m in (20, 127, 240) for n in (0.02, 0.1, 0.3)
    ]


@pytest.mark.parametrize(
    ("override", "fps"),
    [
        ("sweep.fps=[5,12]", [5, 12]),
        ("sweep.fps=5", [5]),
        ("sweep.fps=5:9:2", [5, 7, 9]),
        ("sweep.cells=[{fps:9},{fps:4}]", [9, 4]),
    ],
)
def test_an_axis_can_be_written_on_the_command_line(override: str, fps: list[int]):
    assert [c.fps for c in composed(override).cells()] == fps


def test_an_axis_of_a_sweep_file_can_be_overridden():
    cells = composed("+sweep=motion", "sweep.motion_bucket_id=[1,2]", "sweep.noise_aug_strength=null").cells()
    assert [c.motion_bucket_id for c in cells] == [1, 2]


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_every_field_has_a_docstring_below_it_or_is_a_section_with_one(kind: type):
    tree = ast.parse(Path(inspect.getfile(kind)).read_text())
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__).body
    hints = get_type_hints(kind)
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            section = hints[node.target.id]
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented or (dataclasses.is_dataclass(section) and section.__doc__), node.target.id


@pytest.mark.parametrize(
    "kind", [ModelConfig, MemoryConfig, SpeedConfig, VideoConfig, BackendConfig], ids=lambda kind: kind.__name__
)
def test_every_option_of_a_group_sets_every_field_that_differs_between_options(kind: type):
    group = kind.__name__.removesuffix("Config").lower()
    options = [yaml.safe_load(f.read_text()) for f in (conf_dir() / group).glob("*.yaml")]
    fields = {f.name for f in dataclasses.fields(kind)}
    keys = [set(o.get(group, o)) for o in options]
    if kind is not BackendConfig:  # serial needs nothing but its name
        assert all(k == fields for k in keys)
    assert set.union(*keys) == fields


@pytest.mark.parametrize("key", ["address", "num_actors", "num_gpus"])
def test_the_serial_backend_refuses_what_it_would_not_read(key: str):
    with pytest.raises(UserError, match=rf"backend\.{key}: backend=serial has no use for it"):
        BackendConfig(kind=BackendKind.serial, **{key: "auto" if key == "address" else 1})


def test_a_checkpoint_of_ones_own_has_neither_pockets_name_nor_its_licence():
    model = ModelConfig(id="/checkpoints/mine/")
    assert (model.name, model.license) == ("mine", "unknown")


# --- reproducible -----------------------------------------------------------------------------------------------


def test_reproducible_gives_an_actor_one_thread_and_keeps_what_was_given():
    assert composed("reproducible=true").backend.torch_threads == 1
    assert composed("reproducible=true", "backend=serial").backend.torch_threads == 1
    assert composed("reproducible=true", "backend.torch_threads=3").backend.torch_threads == 3
    assert composed().backend.torch_threads is None


def test_reproducible_leaves_nothing_to_measuring_and_keeps_a_compiler_that_was_asked_for():
    speed = composed("reproducible=true").speed
    assert (speed.batch_size, speed.compile) == (1, Compile.off)
    assert composed("reproducible=true", "speed.compile=regional").speed.compile is Compile.regional


def test_reproducible_refuses_a_batch_in_a_sentence():
    assert composed("reproducible=true", "speed.batch_size=1").speed.batch_size == 1
    with pytest.raises(UserError, match=r"^speed\.batch_size: 4 excludes reproducible=true, .* give 1 or leave it out"):
        Config(reproducible=True, speed=SpeedConfig(batch_size=4))


def test_a_reproducible_folder_may_not_mix_what_changes_the_last_bit():
    settings = folder_settings(composed("reproducible=true"), "r")
    assert (settings["reproducible"], settings["backend.torch_threads"]) == (True, 1)
    sections = {f"memory.{f.name}" for f in dataclasses.fields(MemoryConfig)}
    sections |= {f"speed.{f.name}" for f in dataclasses.fields(SpeedConfig)}
    assert sections < set(settings)


def test_a_reproducible_video_has_the_id_that_it_would_have_otherwise():
    assert pixel_settings(composed("reproducible=true"), "r") == pixel_settings(composed(), "r")


def test_all_metrics_are_measured_unless_a_list_says_which():
    assert composed().metrics.chosen() == tuple(METRICS)
    assert composed("metrics.names=[likeness,motion]").metrics.chosen() == ("motion", "likeness")
    assert composed("metrics.names=[]").metrics.chosen() == ()


def test_a_metric_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"^metrics.names: 'flickr' is not accepted; did you mean flicker\? The metrics"
    ):
        composed("metrics.names=[motion,flickr]")


@pytest.mark.parametrize("settings", [pixel_settings, folder_settings])
@pytest.mark.parametrize("reproducible", ["true", "false"])
def test_metrics_are_no_part_of_an_id_nor_of_what_a_folder_may_not_mix(settings: Any, reproducible: str):
    asked = f"reproducible={reproducible}"
    assert settings(composed(asked, "metrics.names=[]"), "r") == settings(composed(asked), "r")
