"""Where a checkpoint's files are: bundled, in a local folder or on the hub. Loads no weights.

Only safetensors count, and nothing that a checkpoint ships is ever executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from svd_batch.checkpoint_files import (
    CONFIGS,
    INDEX,
    Configs,
    Tensor,
    check_fits_config,
    check_parts_fit,
    read_configs,
    read_header,
)
from svd_batch.config import ModelConfig
from svd_batch.errors import UserError, store_error
from svd_batch.images import one_line
from svd_batch.locations import fetched, location

COMPONENTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HASHED_BYTES = 2**20
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
PUBLISHED = tuple(f"stabilityai/stable-video-diffusion-{name}" for name in ("img2vid", "img2vid-xt", "img2vid-xt-1-1"))
HUB_TIMEOUT_S = 10.0

T = TypeVar("T")


def bundled_checkpoint() -> Path:
    """Return the folder of `pocket`, the checkpoint that ships with the package."""
    return Path(__file__).parent / "assets" / "pocket"


def local_folder(model: ModelConfig) -> Path | None:
    """Return the checkpoint's folder on this machine, or None when `model.id` names a hub repository.

    Raises: UserError when it is neither.
    """
    if model.id == "pocket":
        return bundled_checkpoint()
    if is_address(model.id):
        return _from_store(model)
    path = Path(model.id).expanduser()
    if path.is_dir():
        return path.resolve()
    if _REPO_ID.fullmatch(model.id) and not path.exists():
        return None
    raise UserError(
        f"model.id: no such folder: {model.id}; give a folder in diffusers' format or a hub id such as org/name"
    )


def is_address(model_id: str) -> bool:
    """Return whether a checkpoint is in a store, from which each machine fetches it for itself."""
    return "://" in model_id


def _from_store(model: ModelConfig) -> Path:
    """Return the folder on this machine with a copy of a store's checkpoint, fetched where it isn't there yet.

    A folder is called after what the store says of the files, so another version of them is another folder.
    """
    source = location(model.id)
    try:
        return fetched(source, _cache(), lambda name: _is_wanted(name, model.variant))
    except FileNotFoundError:
        raise UserError(
            f"model.id: no model_index.json in {model.id}; give a folder in diffusers' format, in a store or here"
        ) from None
    except Exception as error:
        told = store_error(error)
        if told is None:
            raise
        raise UserError(f"model.id: {model.id} can't be read; {told}") from None


def _is_wanted(name: str, variant: str | None) -> bool:
    """Return whether a checkpoint's file is one that counts."""
    if name.count("/") > 1 or not name.endswith((".json", ".safetensors")):
        return False
    return not name.endswith(".safetensors") or (variant or "") in name


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "svd_batch" / "checkpoints"


def resolve_revision(model: ModelConfig) -> str:
    """Return what pins the weights: a hash of a local folder's files, or the hub's commit of `model.revision`.

    Of each weight file only size, first and last MiB are hashed: 4.5 GB would take longer than a plan may.

    Raises: UserError.
    """
    folder = local_folder(model)
    if folder is not None:
        check_folder(folder, model.variant)
        check_size(folder, model)
        return _content_hash(folder, model.variant)
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    def commit() -> str:
        try:
            return str(HfApi().model_info(model.id, revision=model.revision, timeout=HUB_TIMEOUT_S).sha)
        except HfHubHTTPError:
            raise
        except Exception:  # nobody was reached; what is raised then depends on the hub client's version
            index = hf_hub_download(model.id, "model_index.json", revision=model.revision, local_files_only=True)
            return Path(index).parent.name  # …/snapshots/<commit>/model_index.json

    return _from_hub(model, commit)


def fetch(model: ModelConfig) -> Path:
    """Return the folder with the checkpoint's files on this machine, downloading what is missing from the hub.

    Raises: UserError for a gated repository, no connection, a full disk, a wrong id, revision or variant.
    """
    folder = local_folder(model)
    if folder is None:
        from huggingface_hub import snapshot_download

        weights = f"*/*{model.variant}*.safetensors" if model.variant else "*/*.safetensors"
        ignored = None if model.variant else ["*.fp16*.safetensors"]
        patterns = ["model_index.json", "*/*.json", weights]
        folder = Path(
            _from_hub(
                model,
                lambda: snapshot_download(
                    model.id, revision=model.revision, allow_patterns=patterns, ignore_patterns=ignored
                ),
            )
        )
    check_folder(folder, model.variant)
    check_size(folder, model)
    return folder


def on_this_machine(model: ModelConfig) -> Path | None:
    """Return the folder of a checkpoint of which at least something is here, None otherwise; asks nobody.

    Raises: UserError when `model.id` is neither a folder nor a hub id.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.id, revision=model.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _from_hub(model: ModelConfig, download: Callable[[], T]) -> T:
    """Return what `download` returns, its errors told in one sentence each."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{model.id}"
    try:
        return download()
    except errors.GatedRepoError:
        raise UserError(
            f"model.id: {model.id} is gated; accept its licence at {page} and set HF_TOKEN to a token of that account"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"model.revision: {model.id} has no revision {model.revision!r}; see {page}/commits") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"model.id: the hub has no {model.id}, or it is private; check the name, or set HF_TOKEN"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"model.id: {model.id} is not on this machine and the hub can't be reached (offline?); connect once, "
            "unset HF_HUB_OFFLINE, or give a local folder"
        ) from None
    except errors.EntryNotFoundError:
        raise UserError(f"model.id: {model.id} has no model_index.json; it is not in diffusers' format") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"model.id: no room on the disk for {model.id}; free some, or set HF_HOME to a larger one"
            ) from None
        raise UserError(f"model.id: {model.id} could not be fetched: {one_line(error)}") from None


def check_folder(folder: Path, variant: str | None) -> None:
    """Check that a folder is a whole SVD checkpoint with safetensors weights, from its configs and headers alone.

    Raises: UserError naming what is missing, truncated, of another kind or of another checkpoint.
    """
    configs = read_configs(folder)
    check_parts_fit(folder, configs)
    for component in COMPONENTS:
        check_fits_config(component, folder / component, read_headers(folder, component, variant), configs[component])


def read_headers(folder: Path, component: str, variant: str | None) -> dict[str, Tensor]:
    """Return what the headers of a component's weight files say of each tensor.

    Raises: UserError when a file is missing or truncated.
    """
    headers = [read_header(file) for file in weight_files(folder, component, COMPONENTS[component], variant)]
    return {name: tensor for header in headers for name, tensor in header.items()}


def check_size(folder: Path, model: ModelConfig) -> None:
    """Raise UserError when VAE and UNet can't halve the size as often as they do; from their configs alone."""
    configs = read_configs(folder)
    halvings = sum(len(configs[part]["block_out_channels"]) - 1 for part in ("vae", "unet"))
    for key in ("height", "width"):
        value = getattr(model, key)
        if value % 2**halvings:
            raise UserError(
                f"model.{key}: {value} is not accepted by this checkpoint; give a multiple of {2**halvings}"
            )


def known_configs(model: ModelConfig, revision: str | None) -> Configs | None:
    """Return the configs of the checkpoint's parts, without its weights; None where nobody here knows them.

    Those of a hub repository come from the cache or the hub (`revision` None: the cache alone); for Stability AI's own,
    where neither has them, from a copy of what they published.
    """
    folder = local_folder(model)
    if folder is not None:
        return read_configs(folder)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = [
        try_to_load_from_cache(model.id, name, revision=revision or model.revision)
        for name in (INDEX, *CONFIGS.values())
    ]
    if all(isinstance(file, str) for file in cached):
        return read_configs(Path(str(cached[0])).parent)
    if revision is not None:
        # not into the cache: half of a checkpoint there would look like one that was fetched
        with suppress(Exception), tempfile.TemporaryDirectory(prefix="svdb-configs-") as temporary:
            for name in (INDEX, *CONFIGS.values()):  # gated or gone: what is raised depends on the client's version
                hf_hub_download(model.id, name, revision=revision, local_dir=temporary)
            return read_configs(Path(temporary))
    return published_configs() if model.id in PUBLISHED else None


def published_configs() -> Configs:
    """Return the configs of Stable Video Diffusion's UNet, VAE and image encoder, the same in all its versions."""
    configs: Configs = json.loads((Path(__file__).parent / "assets/svd_configs.json").read_text())
    return configs


def trained_num_frames(model: ModelConfig, revision: str) -> int | None:
    """Return the frames of the videos that the checkpoint was trained on; None while it isn't on this machine."""
    folder = local_folder(model)
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(model.id, CONFIGS["unet"], revision=revision)
        if not isinstance(config, str):
            return None
        folder = Path(config).parent.parent  # …/snapshots/<commit>/unet/config.json
    return int(read_configs(folder)["unet"]["num_frames"])


def weight_files(folder: Path, component: str, stem: str, variant: str | None) -> list[Path]:
    """Return a component's safetensors files of one variant (several where the weights are sharded).

    Raises: UserError when there are none.
    """
    found = sorted(f for f in (folder / component).glob(f"{stem}*.safetensors") if f.is_file())
    files = [f for f in found if _variant_of(f, stem) == variant]
    if files:
        _check_shards(folder / component, stem, files)
        return files
    if found:
        have = ", ".join(sorted({str(_variant_of(f, stem) or "null") for f in found}))
        raise UserError(
            f"model.variant: {folder.name}/{component} has no weights of variant {variant!r}; it has {have}"
        )
    pickles = [f.name for f in (folder / component).glob("*") if f.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickles:
        raise UserError(
            f"model.id: {folder.name}/{component} has pickle weights only ({pickles[0]}); convert to safetensors"
        )
    raise UserError(f"model.id: {folder.name}/{component} has no {stem}*.safetensors; the checkpoint is incomplete")


def _check_shards(folder: Path, stem: str, files: list[Path]) -> None:
    """Raise UserError when a shard is missing, or the index without which none of them loads."""
    numbers = [found for file in files if (found := _SHARD.search(file.name))]
    if not numbers:
        return
    here, expected = {found[1] for found in numbers}, int(numbers[0][2])
    missing = [f"{number:05}" for number in range(1, expected + 1) if f"{number:05}" not in here]
    if missing:
        raise UserError(
            f"model.id: {folder} has {len(files)} of {expected} weight files and lacks number {missing[0]}; "
            "the checkpoint is incomplete"
        )
    if not any(folder.glob(f"{stem}.safetensors.index*.json")):
        raise UserError(f"model.id: {folder} has no {stem}.safetensors.index*.json; the checkpoint is incomplete")


def _variant_of(file: Path, stem: str) -> str | None:
    middle = _SHARD.sub("", file.name.removeprefix(stem).removesuffix(".safetensors"))
    return middle.strip(".") or None


def _content_hash(folder: Path, variant: str | None) -> str:
    """Return 40 hex digits, as long as the hub's commits are."""
    digest = hashlib.sha256()
    weights = [f for c, stem in COMPONENTS.items() for f in weight_files(folder, c, stem, variant)]
    for file in sorted([*weights, *(folder / name for name in CONFIGS.values())]):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HASHED_BYTES))
            stream.seek(max(0, size - _HASHED_BYTES))
            digest.update(stream.read(_HASHED_BYTES))
    return digest.hexdigest()[:40]
