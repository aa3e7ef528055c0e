"""Stock SVD, generalised to one value per sample, so that the cells of a sweep share a batch.

Called with single values it does what `StableVideoDiffusionPipeline` does, to the bit on CPU float32. One
difference: each sample is decoded by itself, where stock chunks across the frames of a whole batch and so lets one
video's last frames change another's first.

Source of the steps: diffusers 0.42, pipelines/stable_video_diffusion/pipeline_stable_video_diffusion.py.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipelineOutput,
    retrieve_timesteps,
)
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from svd_batch.engine.deep_cache import DeepCache
from svd_batch.engine.machine import Laps
from svd_batch.sweep import TRAINED_MOTION_BUCKETS

logger = logging.get_logger(f"diffusers.{__name__}")  # heeds the verbosity that is set for diffusers

PerSample = float | Sequence[float]
Generators = torch.Generator | list[torch.Generator] | None

LARGEST_SIGMA = 1000.0
"""Above every noise level of SVD, whose largest is 700: as an upper bound it is none."""


class SVDSweepPipeline(StableVideoDiffusionPipeline):  # type: ignore[misc]
    """Image to video with one value, or one per sample, of motion_bucket_id, noise_aug_strength, fps and guidance.

    One picture with lists of length n gives n videos of that picture, and CLIP sees it once:

        >>> pipe = SVDSweepPipeline.from_pretrained(
        ...     "stabilityai/stable-video-diffusion-img2vid-xt", torch_dtype=torch.float16, variant="fp16"
        ... ).to("cuda")
        >>> generators = [torch.Generator().manual_seed(42) for _ in range(2)]
        >>> slow, fast = pipe(image, motion_bucket_id=[20, 240], generator=generators, decode_chunk_size=8).frames

    All samples of a call share the number of steps and whether guidance is on.
    """

    split_guidance: bool = False
    """Run the two halves of guidance one after the other: half of the activations, the same pixels."""
    known: Conditioning | None = None
    """Embeddings and image latents to reuse between calls; None computes them at each call, as stock does."""
    seconds: Mapping[str, float] | None = None
    """What the last call took, by phase: condition, denoise, decode."""

    def enable_conditioning_reuse(self, *, keep_float32_encoder: bool = True) -> None:
        """Remember what CLIP and the VAE said about recent pictures: the cells of a sweep ask the same again.

        A float16 VAE that encodes in float32 is turned to float32 and back at each call by stock;
        `keep_float32_encoder` keeps a second, float32 copy of its encoder instead (137 MB for SVD).
        """
        self.known = Conditioning()
        if keep_float32_encoder and self.vae.dtype == torch.float16 and self.vae.config.force_upcast:
            self.known.encoder = copy.deepcopy(torch.nn.Sequential(self.vae.encoder, self.vae.quant_conv)).float()

    @torch.no_grad()
    def __call__(
        self,
        image: PIL.Image.Image | list[PIL.Image.Image] | torch.Tensor,
        height: int = 576,
        width: int = 1024,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: list[float] | None = None,
        min_guidance_scale: PerSample = 1.0,
        max_guidance_scale: PerSample = 3.0,
        fps: PerSample = 7,
        motion_bucket_id: PerSample = 127,
        noise_aug_strength: PerSample = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        output_type: str | None = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  (stock's own default)
        return_dict: bool = True,
        *,
        guidance_sigma_min: float = 0.0,
        guidance_sigma_max: float = LARGEST_SIGMA,
        deep_cache_interval: int = 1,
    ) -> Any:
        """Return the videos as stock does: `.frames`, or the bare frames with `return_dict=False`.

        Two approximations that stock lacks, one value for all samples, off by default. Guidance applies at the steps
        whose noise level sigma lies within `guidance_sigma_min` and `guidance_sigma_max` (SVD's go from 700 down to
        0.002); at the others the half without a picture isn't computed. The UNet's deep features are computed at every
        `deep_cache_interval`-th step and used again in between (see deep_cache.py).

        Raises: ValueError for a list of the wrong length, a value that is NaN, infinite or (motion_bucket_id) negative,
        or guidance that is on for some samples and off for others.
        """
        laps = Laps(self._execution_device)
        self.seconds = laps.seconds

        # 0.-1. Defaults and checks
        height = height or self.unet.config.sample_size * self.vae_scale_factor
        width = width or self.unet.config.sample_size * self.vae_scale_factor
        num_frames = num_frames if num_frames is not None else self.unet.config.num_frames
        decode_chunk_size = decode_chunk_size if decode_chunk_size is not None else num_frames
        self.check_inputs(image, height, width)

        # 2. One value a sample
        num_images = 1 if isinstance(image, PIL.Image.Image) else len(image)
        cell = {
            "min_guidance_scale": _listed(min_guidance_scale),
            "max_guidance_scale": _listed(max_guidance_scale),
            "fps": _listed(fps),
            "motion_bucket_id": _listed(motion_bucket_id),
            "noise_aug_strength": _listed(noise_aug_strength),
        }
        num_samples = count_samples({**cell, "generator": generator}, num_images, num_videos_per_prompt or 1)
        values = {name: spread(value, num_samples) for name, value in cell.items()}
        band = {"guidance_sigma_min": [guidance_sigma_min], "guidance_sigma_max": [guidance_sigma_max]}
        check_values({**values, **band, "sigmas": sigmas if sigmas is not None else []})
        check_guidance(values["min_guidance_scale"], values["max_guidance_scale"])
        repeats = num_samples // num_images
        device = self._execution_device
        self._guidance_scale: Any = max(values["max_guidance_scale"])  # a number until step 8, as stock

        # 3. CLIP, once an image: (2 * samples, 1, dim) with guidance, the negative half first
        image_embeddings = self._encode_image(image, device, repeats, self.do_classifier_free_guidance)
        dtype = image_embeddings.dtype

        # 4. VAE, once a sample; the generator gives the noise first and the latents later, in this order
        picture = self.video_processor.preprocess(image, height=height, width=width).to(device)  # (images, 3, H, W)
        image_latents = self._encode_noisy(picture, values["noise_aug_strength"], generator, repeats).to(dtype)
        image_latents = image_latents.unsqueeze(1).repeat(1, num_frames, 1, 1, 1)  # (…, T, C, h, w)

        # 5. Added time ids; the model was trained on fps - 1
        columns = ([f - 1 for f in values["fps"]], values["motion_bucket_id"], values["noise_aug_strength"])
        added_time_ids = self._time_ids(columns, dtype).to(device)

        # 6. Timesteps
        timesteps, num_inference_steps = retrieve_timesteps(self.scheduler, num_inference_steps, device, None, sigmas)

        # 7. Latents
        latents = self.prepare_latents(
            num_samples, num_frames, self.unet.config.in_channels, height, width, dtype, device, generator, latents
        )

        # 8. Guidance rises linearly over the frames: (samples, T, 1, 1, 1)
        ramps = zip(values["min_guidance_scale"], values["max_guidance_scale"], strict=True)
        scales = torch.stack([torch.linspace(low, high, num_frames) for low, high in ramps])
        self._guidance_scale = scales.to(device, latents.dtype)[:, :, None, None, None]
        laps.end("condition")

        # 9. Denoising
        conditioning = (image_latents, image_embeddings, added_time_ids)
        splits = self.split_guidance and self.do_classifier_free_guidance
        halves = list(zip(*(part.chunk(2) for part in conditioning), strict=True)) if splits else [conditioning]
        num_warmup_steps = len(timesteps) - num_inference_steps * self.scheduler.order
        guided = self._guided_steps(len(timesteps), guidance_sigma_min, guidance_sigma_max)
        # the same tensors at every step, by which the UNet knows what it has computed of them
        unguided = halves[-1:] if splits or all(guided) else [tuple(part.chunk(2)[1] for part in conditioning)]
        deep = DeepCache(self.unet, deep_cache_interval)
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                noise_pred = self._predict(latents, t, halves if guided[i] else unguided, deep, i)
                latents = self.scheduler.step(noise_pred, t, latents).prev_sample
                if callback_on_step_end is not None:
                    # stock documents latents alone, and hands out whatever local has the name
                    offered = {
                        "latents": latents,
                        "noise_pred": noise_pred,
                        "image_latents": image_latents,
                        "image_embeddings": image_embeddings,
                        "added_time_ids": added_time_ids,
                    }
                    given = {name: offered[name] for name in callback_on_step_end_tensor_inputs}
                    latents = callback_on_step_end(self, i, t, given).pop("latents", latents)
                # a scheduler of a higher order takes several timesteps a step
                if i == len(timesteps) - 1 or (i >= num_warmup_steps and (i + 1) % self.scheduler.order == 0):
                    progress_bar.update()
        laps.end("denoise")

        # 10. Decoding, a sample at a time
        frames: Any = latents
        if output_type != "latent":
            decoded = [self.decode_latents(sample[None], num_frames, decode_chunk_size) for sample in latents]
            frames = self.video_processor.postprocess_video(video=torch.cat(decoded), output_type=output_type)
        laps.end("decode")
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else frames

    def _encode_image(
        self, image: Any, device: torch.device, num_videos_per_prompt: int, do_classifier_free_guidance: bool
    ) -> torch.Tensor:
        """Return stock's CLIP embeddings, from memory where the same pictures were asked for before."""

        def encode() -> torch.Tensor:
            embeddings: torch.Tensor = super(SVDSweepPipeline, self)._encode_image(
                image, device, num_videos_per_prompt, do_classifier_free_guidance
            )
            return embeddings

        if self.known is None:
            return encode()
        asked = f"clip {device} {self.image_encoder.dtype} {num_videos_per_prompt} {do_classifier_free_guidance}"
        return self.known.get(f"{asked} {digest(image)}", encode)

    def _encode_known(self, picture: torch.Tensor, known: Conditioning) -> torch.Tensor:
        """Return the latents (1, C, h, w) of one noisy picture, from memory where the same was asked for before."""
        asked = f"vae {picture.device} {self.vae.dtype}"
        return known.get(f"{asked} {digest(picture)}", lambda: self._encode_picture(picture))

    def _encode_picture(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the latents (N, C, h, w) of noisy pictures (N, 3, H, W), in float32 where the VAE asks for it."""
        if self.known is not None and self.known.encoder is not None:
            moments: torch.Tensor = self.known.encoder.to(picture.device)(picture.float())
            mean, _ = moments.chunk(2, dim=1)
            return mean
        needs_upcasting = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        if needs_upcasting:
            self.vae.to(dtype=torch.float32)
        encoded: torch.Tensor = self._encode_vae_image(picture, picture.device, 1, False)
        if needs_upcasting:
            self.vae.to(dtype=torch.float16)
        return encoded

    def _encode_noisy(
        self, picture: torch.Tensor, strengths: Sequence[float], generator: Generators, repeats: int
    ) -> torch.Tensor:
        """Return latents (samples, C, h, w) of pictures with noise, zeros in front of them for guidance.

        One strength for all repeats of an image and one generator: encoded once an image and repeated, as stock does.
        """
        alike = all(s == strengths[i - i % repeats] for i, s in enumerate(strengths))
        each = 1 if alike and not isinstance(generator, list) else repeats
        picture = picture.repeat_interleave(each, dim=0) if each > 1 else picture
        noise = randn_tensor(picture.shape, generator=generator, device=picture.device, dtype=picture.dtype)
        scales = list(strengths[:: repeats // each])
        # a Python float, as stock multiplies, where there is one value: a tensor would round it first
        scale: Any = (
            scales[0] if len(set(scales)) == 1 else torch.tensor(scales, device=picture.device)[:, None, None, None]
        )
        picture = picture + scale * noise

        if self.known is None:
            encoded = self._encode_picture(picture)
        else:  # one at a time, so that a sample's latents don't depend on its neighbours
            encoded = torch.cat([self._encode_known(sample, self.known) for sample in torch.split(picture, 1)])
        encoded = encoded.repeat_interleave(repeats // each, dim=0) if repeats > each else encoded
        return torch.cat([torch.zeros_like(encoded), encoded]) if self.do_classifier_free_guidance else encoded

    def _time_ids(self, columns: Sequence[Sequence[float]], dtype: torch.dtype) -> torch.Tensor:
        """Return fps - 1, bucket and strength of every sample, twice with guidance: (…, 3)."""
        expected = self.unet.add_embedding.linear_1.in_features
        passed = self.unet.config.addition_time_embed_dim * len(columns)
        if expected != passed:
            raise ValueError(f"the UNet takes an added time embedding of length {expected}; this call makes {passed}")
        ids = torch.tensor(list(zip(*columns, strict=True)), dtype=dtype)
        return torch.cat([ids, ids]) if self.do_classifier_free_guidance else ids

    def _guided_steps(self, num_steps: int, sigma_min: float, sigma_max: float) -> list[bool]:
        """Return for each step whether guidance applies; True where it is off as a whole, with no half to leave out.

        Raises: ValueError for a scheduler without noise levels, where a band is given.
        """
        if not self.do_classifier_free_guidance or (sigma_min <= 0 and sigma_max >= LARGEST_SIGMA):
            return [True] * num_steps
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is None:
            raise ValueError(f"`guidance_sigma_min`: {type(self.scheduler).__name__} has no noise levels")
        return [sigma_min <= float(sigma) <= sigma_max for sigma in sigmas[:num_steps]]

    def _predict(
        self,
        latents: torch.Tensor,
        t: torch.Tensor,
        halves: Sequence[tuple[torch.Tensor, ...]],
        deep: DeepCache,
        step: int,
    ) -> torch.Tensor:
        """Return the model's v-prediction (samples, T, C, h, w), guided where the halves are both there.

        `halves`: image latents, embeddings and time ids of both halves of guidance together, of one after the other,
        or of the half with a picture alone.
        """
        num_samples = len(latents)
        guided = sum(len(embeddings) for _, embeddings, _ in halves) == 2 * num_samples
        scaled = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        predictions = []
        for model_input, half in zip(scaled.chunk(len(halves)), halves, strict=True):
            image_latents, embeddings, time_ids = half
            with deep.step(step, id(half)):
                predictions += self.unet(
                    torch.cat([model_input, image_latents], dim=2),
                    t,
                    encoder_hidden_states=embeddings,
                    added_time_ids=time_ids,
                    return_dict=False,
                )
        if not guided:
            prediction: torch.Tensor = predictions[0]
            return prediction
        uncond, cond = predictions if len(halves) == 2 else predictions[0].chunk(2)
        mixed: torch.Tensor = uncond + self.guidance_scale * (cond - uncond)
        return mixed


class Conditioning:
    """What CLIP and the VAE said about recent pictures, by a digest of what they were shown."""

    def __init__(self, most: int = 64) -> None:
        self.encoder: torch.nn.Module | None = None
        """A float32 copy of a float16 VAE's encoder and quant_conv, where one is kept."""
        self._most = most
        self._results: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()  # pipelines in several threads share one, and the second may wait for the first

    def clear(self) -> None:
        """Forget every picture."""
        self._results.clear()

    def get(self, key: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return compute(), from memory where the key was asked for before."""
        with self._lock:
            if key in self._results:
                self._results[key] = self._results.pop(key)  # now the last to go
            else:
                if len(self._results) == self._most:
                    del self._results[next(iter(self._results))]
                self._results[key] = compute()
            return self._results[key]


def digest(picture: Any) -> str:
    """Return a hash of the pixels of a picture, a tensor or a list of them."""
    total = hashlib.blake2b(digest_size=16)
    for part in picture if isinstance(picture, list) else [picture]:
        pixels = part.cpu().float().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        total.update(f"{type(part).__name__} {pixels.shape} {pixels.dtype}".encode())
        total.update(np.ascontiguousarray(pixels).data)
    return total.hexdigest()


def count_samples(values: Mapping[str, Any], num_images: int, num_videos_per_prompt: int) -> int:
    """Return the number of videos of a call: images x num_videos_per_prompt, or the lists' length for one image.

    Raises: ValueError naming the list whose length fits neither.
    """
    num_samples = num_images * num_videos_per_prompt
    lengths = {name: len(v) for name, v in values.items() if isinstance(v, Sequence)}
    if num_samples == 1 and lengths:
        num_samples = max(lengths.values())
    for name, length in lengths.items():
        if length != num_samples or not length:
            raise ValueError(
                f"`{name}` is a list of length {length}; give one value, or one for each of {num_samples} samples"
            )
    return num_samples


def _listed(value: Any) -> Any:
    """Return an array or a tensor as numbers, anything else as it is."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) else value


def spread(value: PerSample, num_samples: int) -> list[float]:
    """Return one value a sample."""
    return list(value) if isinstance(value, Sequence) else [value] * num_samples


def check_values(values: Mapping[str, Sequence[float]]) -> None:
    """Raise ValueError for a value that makes no video, and warn of motion that the model never saw.

    Stock takes NaN and negative buckets without a word.
    """
    for name, several in values.items():
        for value in several:
            if not math.isfinite(value):
                raise ValueError(f"`{name}` has to be finite but is {value}")
    buckets = values["motion_bucket_id"]
    if min(buckets) < 0:
        raise ValueError(f"`motion_bucket_id` has to be from 0 to {TRAINED_MOTION_BUCKETS} but is {min(buckets)}")
    if max(buckets) > TRAINED_MOTION_BUCKETS:
        logger.warning(
            f"`motion_bucket_id` {max(buckets)} is above {TRAINED_MOTION_BUCKETS}, the largest that Stable Video "
            "Diffusion was trained on"
        )


def check_guidance(min_guidance_scale: Sequence[float], max_guidance_scale: Sequence[float]) -> None:
    """Raise ValueError when guidance is on (maximum above 1) for some samples and off for others, or has no end.

    Stock fails in the UNet on a minimum above 1 whose maximum turns guidance off.
    """
    if len({scale > 1 for scale in max_guidance_scale}) > 1:
        raise ValueError(
            f"`max_guidance_scale` {list(max_guidance_scale)} turns guidance on for some samples and off for "
            "others; give values that are all above 1, or all at most 1"
        )
    if max(max_guidance_scale) <= 1 < max(min_guidance_scale):
        raise ValueError(
            f"`min_guidance_scale` {max(min_guidance_scale)} asks for guidance that `max_guidance_scale` "
            f"{max(max_guidance_scale)} turns off; give a minimum that is at most the maximum"
        )
