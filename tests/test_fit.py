"""SVD-XT's demand, by the estimator: what each profile takes of a GPU, and what is chosen or refused by that.

All tests of these traces are in this file, since one process remembers them and each takes seconds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import make_cell
from test_estimate import parameters

from svd_batch.bench import OFF
from svd_batch.checkpoint import published_configs
from svd_batch.config import MemoryConfig, ModelConfig, SpeedConfig
from svd_batch.engine import estimate as module
from svd_batch.engine.estimate import Estimate, Work, estimate
from svd_batch.engine.fit import Demand, check_fits, choose
from svd_batch.errors import UserError
from svd_batch.profiles import PROFILES, with_margin

GB, GIB = 10**9, 2**30
EXACT = SpeedConfig()
XT = Work(25, 576, 1024, "float16", guided=True, decode_chunk_size=2)


def of_xt(memory: MemoryConfig, speed: SpeedConfig = EXACT, **changes: Any) -> Estimate:
    return estimate(published_configs(), dataclasses.replace(XT, **changes), memory, speed, "cuda")


# --- what it takes ------------------------------------------------------------------------------------------------


def test_the_published_configs_are_svd_xt_to_the_parameter() -> None:
    from pocket.architecture import SIZES, build_shapes, count_parameters

    assert parameters(published_configs()) == count_parameters(build_shapes(SIZES["full"]))


def test_stock_svd_xt_takes_the_flops_that_were_counted_before() -> None:
    stock = of_xt(PROFILES["fast"], OFF, decode_chunk_size=8)
    assert stock.denoise_flops == pytest.approx(160e12, rel=0.01)
    assert stock.decode_flops == pytest.approx(174e12, rel=0.01)
    assert stock.flops(25) == pytest.approx(4.17e15, rel=0.01)


def test_at_the_guides_chunk_minimal_takes_at_most_6_5_gib_and_low_at_most_8_gb() -> None:
    assert of_xt(PROFILES["minimal"]).peak_bytes <= 6.5 * GIB
    assert of_xt(PROFILES["low"]).peak_bytes <= 8 * GB


def test_each_profile_takes_less_than_the_one_before_it() -> None:
    peaks = [of_xt(memory).peak_bytes for memory in PROFILES.values()]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


def test_every_profile_takes_no_more_than_stock_with_all_its_tricks_or_at_its_fastest() -> None:
    tricks = MemoryConfig(offload=PROFILES["low"].offload, forward_chunking=True)
    for chunk in (1, 2, 8):
        assert (
            of_xt(PROFILES["balanced"], decode_chunk_size=chunk).peak_bytes
            <= 1.02 * of_xt(PROFILES["fast"], OFF, decode_chunk_size=chunk).peak_bytes
        )
        assert (
            of_xt(PROFILES["low"], decode_chunk_size=chunk).peak_bytes
            <= of_xt(tricks, OFF, decode_chunk_size=chunk).peak_bytes
        )


def test_slices_that_are_not_traced_are_counted() -> None:
    """A CPU's slices are so many at SVD-XT's size that two of them stand for the rest."""
    key, speed = module._key(published_configs()), dataclasses.astuple(EXACT)
    whole, sliced = (
        module._denoise(
            module._Run(key, dataclasses.replace(XT, decode_chunk_size=0, dtype=dtype), speed, device, True)
        )
        for device, dtype in (("cuda", "float16"), ("cpu", "float32"))
    )
    assert sliced.flops == pytest.approx(whole.flops, rel=1e-3)


# --- what fits --------------------------------------------------------------------------------------------------


def demand_of_xt(chunk: int = 8, **changes: Any) -> Demand:
    """Return what SVD-XT asks of a GPU."""
    model = ModelConfig(id="org/svd_xt", num_frames=25, height=576, width=1024)
    model.dtype = type(model.dtype)["float16"]
    return Demand(published_configs(), model, SpeedConfig(), make_cell(decode_chunk_size=chunk, **changes), "cuda")


@pytest.mark.parametrize("name", PROFILES)
def test_auto_takes_the_fastest_profile_that_fits_and_says_why(name: str) -> None:
    demand = demand_of_xt(chunk=2)
    enough = with_margin(demand.peak_bytes(PROFILES[name]))
    taken, why = choose(demand, enough, "GPU 7")
    assert taken == PROFILES[name]
    assert why.startswith(f"memory=auto took {name}: it needs about ")
    assert "are free on GPU 7" in why


def test_auto_takes_no_offload_for_compiled_code() -> None:
    demand = demand_of_xt(chunk=2)
    too_little = with_margin(demand.peak_bytes(PROFILES["low"]))
    with pytest.raises(UserError, match="balanced takes the least"):
        choose(demand, too_little, "GPU 7", compiled=True)


def test_a_chunk_that_fits_no_profile_is_refused_with_the_largest_that_does() -> None:
    demand = demand_of_xt(chunk=8)
    fits_five = with_margin(demand.peak_bytes(PROFILES["minimal"], 5))
    with pytest.raises(UserError, match="the largest decode_chunk_size that fits is 5, and it changes the pixels"):
        choose(demand, fits_five, "GPU 7")


def test_a_size_that_does_not_fit_one_frame_at_a_time_is_refused() -> None:
    with pytest.raises(UserError, match="not even decode_chunk_size=1 fits; give a smaller model.height"):
        choose(demand_of_xt(), GIB, "GPU 7")


def test_a_named_profile_that_can_not_fit_is_refused_with_one_that_does() -> None:
    demand = demand_of_xt(chunk=2)
    with pytest.raises(UserError, match=r"memory=fast: about .* at decode_chunk_size=2.*; memory=low fits as it is"):
        check_fits(demand, PROFILES["fast"], demand.peak_bytes(PROFILES["low"]), "GPU 7")


def test_a_named_profile_that_fits_without_margin_is_tried() -> None:
    demand = demand_of_xt(chunk=2)
    check_fits(demand, PROFILES["fast"], demand.peak_bytes(PROFILES["fast"]), "GPU 7")


def test_the_bound_that_saves_a_trace_lies_above_the_estimate() -> None:
    demand = dataclasses.replace(demand_of_xt(chunk=4), device_type="cpu")
    demand.model.dtype = type(demand.model.dtype)["float32"]
    assert demand.bound_bytes() > demand.peak_bytes(PROFILES["fast"])
