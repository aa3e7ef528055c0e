"""One video of a dataset: its row, the command that makes it again, and a script that makes it with stock diffusers.

Reads what a run left (records, run.json, the manifest); loads no model and writes nothing but a one-row manifest.
"""

from __future__ import annotations

import hashlib
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from svd_batch import checkpoint
from svd_batch.access import shown as without_secrets
from svd_batch.config import ModelConfig
from svd_batch.errors import ItemError, UserError, store_error
from svd_batch.images import one_line, open_image, read_bytes
from svd_batch.locations import readable
from svd_batch.manifest import read_manifest
from svd_batch.records import CELL_FIELDS, EXACT, ImageRecord, VideoRecord, flat
from svd_batch.store import Store

_SHORTEST_PREFIX = 4
_NOT_OVERRIDES = ("seed", "model.revision", "video.codec")
"""Settings of run.json that the command gives in another form."""
_RECORDED = ("model", "memory", "speed", "video")


@dataclass(frozen=True)
class Shown:
    """One committed video with all that it takes to make it again."""

    store: Store
    record: VideoRecord
    settings: Mapping[str, Any]
    """`settings` of run.json: what one output folder may not mix."""
    manifests: tuple[str, ...]
    """Every manifest of the folder's runs, the last run's first."""

    @property
    def name(self) -> str:
        """What the new manifest, output folder and script are called."""
        return f"one-{self.record.video_id[:8]}"

    def image(self) -> ImageRecord:
        """Return where the video's picture is.

        Raises: UserError when no manifest of the folder's runs has it any more.
        """
        unreadable = []
        for manifest in self.manifests:  # one by one: two manifests may have the same picture
            try:
                images = read_manifest([manifest], None).images
            except UserError as error:
                unreadable.append(f" ({error})")
                continue
            for image in images:
                if image.image_id == self.record.image_id:
                    return image
        raise UserError(
            f"show: the picture {self.record.image_id!r} is not in {', '.join(self.manifests)}, the manifests of the "
            f"folder's runs{''.join(unreadable)}; run the manifest that has it once more"
        )


def find(root: Path, video_id: str) -> Shown:
    """Return a video of an output folder; `video_id` may be its first digits (4 or more) or the video's file.

    Raises: UserError when `root` is no output folder, or has none or several of such videos.
    """
    store = Store(root)
    if not store.exists():
        raise UserError(f"show: {root} is not an output folder of svd_batch; give the output=… of a run")
    digits = Path(video_id).stem.lower()
    is_prefix = re.fullmatch(rf"[0-9a-f]{{{_SHORTEST_PREFIX},}}", digits) is not None
    found = store.done_ids().starting_with(digits) if is_prefix else []
    if len(found) > 1:
        raise UserError(
            f"VIDEO_ID: {video_id!r} begins {len(found)} videos, {found[0]} and {found[1]} among them; give more digits"
        )
    record = store.read_record(found[0]) if found else None
    if record is None:
        raise UserError(
            f"VIDEO_ID: {root} has no video {video_id!r}; give a video_id of metadata.parquet, "
            f"{_SHORTEST_PREFIX} or more of its first hex digits, or a file below videos/"
        )
    run = store.read_run()
    settings, manifests = run.get("settings") or {}, run.get("manifest") or []
    if "fit" not in settings or not manifests:
        raise UserError(
            f"show: {store.run_json} doesn't say how the folder was made; the same run command writes it anew"
        )
    return Shown(store, record, settings, tuple(manifests))


def row(shown: Shown) -> dict[str, Any]:
    """Return the row of metadata.parquet, its carried columns last; the record alone where the table lacks it."""
    values = flat(shown.record)
    if shown.store.metadata.is_file():
        try:
            with readable(shown.store.metadata) as source:
                rows = pq.read_table(source, filters=[("video_id", "==", shown.record.video_id)]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            damaged = UserError(f"show: {shown.store.metadata} is damaged; the same run command writes it anew")
            raise store_error(error) or damaged from None
        values = {**(rows[0] if rows else {}), **values}
    return values


def row_lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield `name: value`, the values aligned."""
    longest = max(map(len, values))
    for name, value in values.items():
        text = "null" if value is None else f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
        yield f"{name + ':':{longest + 1}} {text}"


# --- the same video by svd_batch ------------------------------------------------------------------------


def write_one_row_manifest(shown: Shown, out: Path) -> None:
    """Write a manifest of the video's picture alone, under the same image_id and with the picture's SHA-256.

    Raises: UserError when the picture is in no manifest, or `out` can't be written.
    """
    image, record = shown.image(), shown.record
    columns = {"image_id": image.image_id, "image_sha256": record.image_sha256}
    table = pa.table({k: pa.array([v], pa.string()) for k, v in columns.items()})
    if image.source_row is not None:
        table = table.append_column("image_bytes", pa.array([_bytes(image)], pa.binary()))
    path = image.image_path if image.source_row is not None else image.source
    table = table.append_column("image_path", pa.array([path], pa.string()))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out)
    except OSError as error:
        raise UserError(f"show: {out} can't be written: {one_line(error)}") from None


def command(shown: Shown) -> str:
    """Return shell commands that make this one video, with the same video_id, in a new folder below the current one."""
    record, settings = shown.record, shown.settings
    manifest = f"{shown.name}.parquet"
    is_hub = checkpoint_folder(record) is None
    overrides = {
        "manifest": manifest,
        "output": shown.name,
        "seeds": [record.seed],
        "video": settings["video.codec"],  # conf/video has a file of this name for each codec
        **{k: v for k, v in settings.items() if k not in _NOT_OVERRIDES},
        **({"model.revision": record.model_revision} if is_hub else {}),
        **_recorded_config(shown),
        **{f"generation.{name}": getattr(record, name) for name in CELL_FIELDS},
        "backend": "serial",
        "backend.torch_threads": record.torch_threads,
        "check_images": "none",
        **({"allow_urls": True} if is_url(record.image_path) else {}),
    }
    words = [shlex.quote(f"{key}={override_value(value)}") for key, value in overrides.items()]
    root = str(shown.store.root.resolve())
    first = ["python", "-m", "svd_batch", "show", root, record.video_id, "--manifest", manifest]
    return f"{shlex.join(first)} &&\npython -m svd_batch run {' '.join(words)}"


def is_url(image_path: str | None) -> bool:
    """Return whether a picture's path is an address."""
    return "://" in (image_path or "")


def _recorded_config(shown: Shown) -> dict[str, Any]:
    """Return what config.yaml adds to run.json: name and licence of the model, memory, speed, tags in the files."""
    import yaml  # as Hydra does

    path = shown.store.internal / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        flat = {f"{section}.{k}": v for section in _RECORDED for k, v in config.get(section, {}).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, yaml.YAMLError, AttributeError):
        raise UserError(f"show: {path} is damaged; the same run command writes it anew") from None
    names = ("model.name", "model.license", "video.embed_parameters")
    return {k: v for k, v in flat.items() if k in names or k.partition(".")[0] in ("memory", "speed")}


def override_value(value: Any) -> str:
    """Return a value as Hydra's override grammar writes it, text quoted where it could mean something else.

    Source: https://hydra.cc/docs/1.3/advanced/override_grammar/basic/#quoted-values
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    words = ("null", "true", "false", "nan", "inf")
    if re.fullmatch(r"[A-Za-z/][\w./-]*", value) and value.lower() not in words:
        return value
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return "'" + text.replace("${", "\\${") + "'"


# --- the same video by stock diffusers ------------------------------------------------------------------


def checkpoint_folder(record: VideoRecord) -> Path | None:
    """Return the folder of the video's checkpoint on this machine, there or not, or None for one of the hub."""
    if record.model_id == "pocket":
        return checkpoint.bundled_checkpoint()
    path = Path(record.model_id)
    return path if path.is_absolute() else None  # a run resolves the folders that it was given


def script(shown: Shown) -> str:
    """Return a Python script that makes the video with stock diffusers and saves its frames as PNG files.

    Guidance in a band and reused deep features are beyond stock: the script then takes SVDSweepPipeline and says so.

    Raises: UserError when the picture is in no manifest or can't be opened.
    """
    return script_text(shown, "\n".join(_opening(shown.image(), shown.record)))


def script_text(shown: Shown, opening: str, imports: frozenset[str] | None = None) -> str:
    """Return the script around the lines that leave `picture` upright and in RGB; opens nothing.

    `imports`: what those lines need of `io`, `np` and `pq`; found in them where it isn't given.
    """
    record, settings = shown.record, shown.settings
    imports = imported(opening) if imports is None else imports
    folder = checkpoint_folder(record)
    where = repr(record.model_id) + f", revision={record.model_revision!r}" if folder is None else repr(str(folder))
    size = (record.width, record.height)
    fit = {
        "crop": f"ImageOps.fit(picture, {size}, Image.Resampling.LANCZOS)",
        "pad": f"ImageOps.pad(picture, {size}, Image.Resampling.LANCZOS, color=(0, 0, 0))",
        "stretch": f"picture.resize({size}, Image.Resampling.LANCZOS)",
    }[settings["fit"]]
    title, pipeline = _pipeline(record)
    cell = "".join(f"    {name}={value},\n" for name, value in _arguments(record))
    device = _plain(record.device_name)
    standard = [f"import {name}\n" for name in ("io",) if name in imports]
    others = {"np": "import numpy as np\n", "pq": "import pyarrow.parquet as pq\n"}
    needed = [line for name, line in others.items() if name in imports]
    return f'''"""Make video {record.video_id} {title}.

The job had torch {record.torch_version}, diffusers {record.diffusers_version} and {device}; others may round otherwise.
"""

{"".join(standard)}from pathlib import Path

{"".join(needed)}import torch
{"".join(_imports(record))}
torch.set_num_threads({record.torch_threads})  # the job had {record.torch_threads} threads: sums of floats depend on it

{opening}
picture = {fit}  # fit={settings["fit"]}

pipe = {pipeline}.from_pretrained(
    {where}, variant={settings.get("model.variant")!r}, torch_dtype=torch.{record.dtype}, use_safetensors=True
)
frames = pipe.to("cuda" if torch.cuda.is_available() else "cpu")(
    picture,
    height={record.height},
    width={record.width},
    num_frames={record.num_frames},
{cell}    generator=torch.manual_seed({record.seed}),
).frames[0]

folder = Path("{shown.name}-frames")
folder.mkdir(exist_ok=True)
for i, frame in enumerate(frames):
    frame.save(folder / f"{{i:03}}.png")
print(f"{{len(frames)}} frames in {{folder}}; the dataset plays them at {record.playback_fps} a second")
'''


def imported(opening: str) -> frozenset[str]:
    """Return which of `io`, `np` and `pq` the lines that open the picture need."""
    return frozenset(name for name in ("io", "np", "pq") if f"{name}." in opening)


def _is_stock(record: VideoRecord) -> bool:
    """Return whether stock diffusers can make the video: exactly, or with the sampler as the only approximation."""
    return record.approximations in (None, record.sampler)


def _pipeline(record: VideoRecord) -> tuple[str, str]:
    """Return how the script's title goes on, and the name of the pipeline's class."""
    if _is_stock(record):
        return "with stock diffusers", "StableVideoDiffusionPipeline"
    return (
        "with the pipeline of svd_batch.\n\n"
        f"Stock diffusers can't make it, since it is approximated: {record.approximations}.\n"
        "SVDSweepPipeline takes these beside stock's own arguments"
    ), "SVDSweepPipeline"


def _imports(record: VideoRecord) -> Iterator[str]:
    if _is_stock(record):
        yield "from diffusers import StableVideoDiffusionPipeline\n"
    if record.sampler == "ays10":
        yield "from diffusers.schedulers import AysSchedules\n"
    yield "from PIL import Image, ImageOps\n"
    if not _is_stock(record):
        yield "from svd_batch.engine.sweep_pipeline import SVDSweepPipeline\n"


def _arguments(record: VideoRecord) -> Iterator[tuple[str, str]]:
    """Yield the fields of the cell as arguments of the pipeline, values as Python writes them."""
    for name in CELL_FIELDS:
        if name == "num_inference_steps" and record.sampler == "ays10":
            yield "sigmas", 'AysSchedules["StableDiffusionVideoSigmas"]'
        elif name not in EXACT or (name != "sampler" and not _is_stock(record)):
            yield name, repr(getattr(record, name))


def _plain(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _opening(image: ImageRecord, record: VideoRecord) -> Iterator[str]:
    """Yield the lines that leave `picture` upright and in RGB, as `images.open_image` does."""
    if is_remote(image):
        yield from opening_lines(image, None)
        return
    data = _bytes(image)
    if hashlib.sha256(data).hexdigest() != record.image_sha256:
        yield "# NOTE: the picture is not the one that the video was made of; its bytes have changed since"
    try:
        open_image(data)  # refuses what the job refuses
    except ItemError as error:
        raise UserError(f"show: the picture can't be opened any more: {error}") from None
    yield from opening_lines(image, Image.open(io.BytesIO(data)))


def is_remote(image: ImageRecord) -> bool:
    """Return whether the picture is to be downloaded first."""
    return image.source_row is None and "://" in image.source


def opening_lines(image: ImageRecord, picture: Image.Image | None) -> Iterator[str]:
    """Yield the lines that open an unchanged picture; of `picture`, None for a remote one, only its mode is asked."""
    if picture is None:
        yield f"# download {_plain(without_secrets(image.source))} as picture.png first"
        yield 'picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")'
        return
    if image.source_row is not None:
        value = f"pq.read_table({image.source!r}, columns=[{image.bytes_column!r}])[0][{image.source_row}].as_py()"
        value = f'{value}["bytes"]' if image.bytes_column == "image" else value
        yield f"data = {value}"
        opened = "io.BytesIO(data)"
    else:
        opened = repr(image.source)
    yield f"picture = ImageOps.exif_transpose(Image.open({opened}))"
    yield from _to_rgb(picture)


def _to_rgb(picture: Image.Image) -> Iterator[str]:
    """Yield the lines that this very picture needs to become RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        yield "grey = np.asarray(picture, dtype=np.float64)"
        top = "65535" if picture.mode != "F" else "grey.max()"
        yield f"grey *= 255 if {top} <= 1 else 1 if {top} <= 255 else 1 / 257"
        yield "picture = Image.fromarray(np.clip(grey, 0, 255).round().astype(np.uint8)).convert('RGB')"
    elif picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        yield 'white = Image.new("RGBA", picture.size, "white")'
        yield 'picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")'
    else:
        yield 'picture = picture.convert("RGB")'


def _bytes(image: ImageRecord) -> bytes:
    try:
        return read_bytes(image)
    except (ItemError, OSError, pa.ArrowException) as error:
        raise UserError(f"show: the picture can't be read any more: {one_line(error)}") from None


def changed_checkpoint(shown: Shown) -> str | None:
    """Return one sentence where the checkpoint's folder no longer holds the weights of the video, else None."""
    record = shown.record
    if checkpoint_folder(record) is None:
        return None
    model = ModelConfig(id=record.model_id, variant=shown.settings.get("model.variant"))
    try:
        revision = checkpoint.resolve_revision(model)
    except UserError as error:
        return str(error)
    if revision == record.model_revision:
        return None
    return f"the weights of {record.model_id} have changed since: revision {revision[:12]}…; the pixels will differ"
