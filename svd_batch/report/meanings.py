"""What each metric means to someone who looks at clips, in one sentence. docs of the metrics have the formulas."""

from __future__ import annotations

MEANINGS = {
    "motion": "How far things move from one frame to the next, on average over the picture and the clip.",
    "motion_top5": "How far the fastest twentieth of the picture moves: small things that move show here first.",
    "motion_fraction": "Motion as a fraction of the picture's diagonal, so that clips of different sizes compare.",
    "motion_top5_fraction": "The motion of the fastest twentieth as a fraction of the picture's diagonal.",
    "camera_motion": "The part of the motion that the whole picture shares: pans, zooms and shakes.",
    "object_motion": "The part of the motion that the camera's doesn't explain.",
    "dynamic_degree": "Clips that count as moving by VBench's rule.",
    "flicker": "How much brightness jumps between frames beyond what motion explains; lower is better.",
    "smoothness": "How evenly motion goes on: low where things jerk.",
    "likeness": "How much the clip's first frame resembles the picture; 1 is the same.",
    "likeness_last": "How much the clip's last frame still resembles the picture; 1 is the same.",
    "psnr_first": "How little the pixels of the first frame differ from the picture's.",
    "psnr_last": "How little the pixels of the last frame differ from the picture's.",
    "clip_likeness": "Whether the frames still show what the picture shows, as CLIP sees it.",
    "clip_consistency": "Whether neighbouring frames show the same, as CLIP sees it.",
    "sharpness": "How much fine detail the frames have; noise counts as detail too.",
    "brightness_drift": "How much brighter (darker, below zero) the clip ends than it begins.",
    "contrast_drift": "How much more (less, below zero) contrast the clip ends with.",
    "saturation_drift": "How much more (less, below zero) colourful the clip ends: SVD's fading and burning.",
    "loop_closure": "How well the last frame leads back to the first.",
    "is_frozen": "Clips in which nothing moves.",
    "is_broken": "Clips that are black, saturated or no numbers at all.",
    "generate_s": "What a video takes from picture to frames.",
}


def meaning(metric: str) -> str:
    """Return what a metric means; nothing for a column that only its maker knows."""
    return MEANINGS.get(metric, "")
