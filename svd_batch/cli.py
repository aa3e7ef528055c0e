"""The verbs of the command line; the only place that knows Hydra. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import svd_batch
from svd_batch.access import printable, unsecret
from svd_batch.errors import STORAGE_ERRNOS, ProcessError, UserError, store_error
from svd_batch.locations import location
from svd_batch.owner import temporary_prefix
from svd_batch.stopping import INTERRUPTED, at_once, end_if_stuck

if TYPE_CHECKING:
    from svd_batch.config import Config

PROGRAM = "svd-batch"
PROBLEMS_FOUND, USAGE_ERROR, PROCESS_ERROR = 1, 2, 4
_MAILABLE_BYTES = 18_000_000
"""Base64 in a mail makes a third more of it."""

HELP = """usage: svd-batch VERB [ARGUMENTS]

Image manifest in, video dataset out: Stable Video Diffusion parameter sweeps.

  run [KEY=VALUE ...]       make the videos of a manifest over a sweep
  refine [KEY=VALUE ...]    draft a sweep, score the drafts, and make the best cells of each picture in final quality
  plan [KEY=VALUE ...]      say what `run` would do, without doing it
  submit cluster=NAME ...   hand the job of `run` to a Ray cluster, to Kubernetes or to Slurm
  manifest FOLDER -o FILE   make a manifest from a folder of pictures
  status OUTPUT [OUTPUT ..] say how a run gets on, from any machine that can read OUTPUT
  report OUTPUT [OUTPUT ..] write one HTML page of finished, interrupted or (--watch) running runs, side by side
  score OUTPUT              measure what the videos lack of the metrics, from their files
  recommend OUTPUT ...      say which cell gives the motion you want, within bounds
  export OUTPUT --to TARGET write the table or the videos for other tools: csv, json, wandb, tensorboard, vbench
  verify OUTPUT             check that every video is there, unchanged and playable
  merge OUTPUT ... -o OUT   put the outputs of several runs together, as of shard=1/16 to shard=16/16
  show OUTPUT VIDEO_ID      print a video's row, and how to make it again, also with stock diffusers
  bench [KEY=VALUE ...]     measure the sweep engine against stock diffusers on this machine

Each has its own --help. `svd-batch --version` prints the version.

Exit codes: 0 finished; 1 verify or score found problems; 2 usage or configuration error;
3 more pictures failed than max_failed_fraction allows; 4 the process can't go on, as after a CUDA error: the same
command goes on in a new one; 130 interrupted, resumable.
"""

JOB_HELP = """usage: svd-batch {verb} [KEY=VALUE ...] [+sweep=NAME] [--cfg job | --info | --multirun | --config-dir DIR]

{purpose}

Without arguments: the bundled pictures and the bundled checkpoint, one cell. The real thing:
  svd-batch {verb} +sweep=motion manifest=pets.parquet model=svd_xt output=outputs/pets

Most used:
  +sweep=NAME               {sweeps}
  sweep.FIELD=VALUES        an axis: [20,127,240], 127 or 20:240:44 (start:stop:step, stop included)
  manifest=FILES            Parquet: a file, a glob, a folder or [a,b]
  model=NAME                {models}; model.id=FOLDER_OR_HUB_ID
  output=FOLDER             the same folder again goes on where it stopped
  refine.best=K             for `refine`: how many cells of each picture; with `plan`: what that would do
  refine.metric=NAME        motion, likeness or any metric of docs/metrics.md that is a number, best first, or with
                            refine.target=X nearest first; refine.draft=draft|preview
  seed=N num_seeds=N        or seeds=[42,43] as they are, for every picture
  generation.FIELD=VALUE    motion_bucket_id, noise_aug_strength, fps, num_inference_steps,
                            min_guidance_scale, max_guidance_scale, decode_chunk_size, and the
                            approximations sampler, guidance_sigma_min, guidance_sigma_max, deep_cache_interval
  quality=NAME              {qualities}: presets of approximations; final has none
  sampler=NAME              {samplers}: ays10 makes ten steps do
  fit=crop|pad|stretch      how pictures are brought to size
  video=NAME                {videos}; video.quality, video.playback_fps
  backend=NAME              {backends}; backend.num_actors, backend.num_gpus, backend.address, backend.wait_s
  memory=NAME               {memories}
  speed=NAME                {speeds}: the engine's exact shortcuts
  metrics.names=[NAME,...]  what to measure of each video, docs/metrics.md; all by default, [] for nothing
  +logger=NAME              for `run`: {loggers}, while it goes on; logger.project, logger.offline=true, logger.folder
  on_end.url=ADDRESS        gets a small JSON when the run has ended, however it did; on_end.command='PROGRAM ...'
  check_images=none|sample|all, retry_failed=true, max_failed_fraction=0.5, verbose=true

  --cfg job                 print the configuration with all overrides and stop
  --info                    print where the configuration comes from
  --multirun, -m            one job for each combination of comma-separated values, e.g. model=svd,svd_xt
  --config-dir DIR          a folder of your own beside conf/, with sweep/NAME.yaml and the like
"""

BENCH_HELP = """usage: svd-batch bench [KEY=VALUE ...] [+sweep=NAME] [--cfg job | --info | --multirun | --config-dir D]

Measure the sweep engine against a plain loop over stock diffusers: the same checkpoint, pictures, cells, seeds,
threads and files; a picture's whole grid by the one and then by the other, from the picture to the committed file,
after a first grid of each that isn't counted. Prints the ratio, its spread, the largest difference of pixels and the
seconds a video by phase; writes all single times as JSON. Memory holds both models, each in a process of its own, and
the pixels of a picture's grid twice.

Without arguments: two of the bundled pictures, the bundled checkpoint, one cell, three rounds. More to the point:
  svd-batch bench +sweep=motion bench.pictures=4
  svd-batch bench +sweep=motion model.id=FOLDER model.num_frames=14 model.height=192 model.width=256 bench.rounds=1

  bench.rounds=N            how often each picture's grid is made by both (default 3)
  bench.pictures=N          the manifest's first N pictures at most (default 2)
  bench.each=true           measure each shortcut that is on by itself as well
  bench.json=FILE           a new file for the measurements; default outputs/bench/<model>-<time>.json
  backend.torch_threads=N   CPU threads of both (default: all cores)
  memory=NAME               {memories}; stock gets what it has of it: offload, forward chunking
  speed=NAME                {speeds}: the engine's exact shortcuts, speed.NAME=true or false
  video=NAME                {videos}

and as in `run`: +sweep, sweep.FIELD, generation.FIELD, manifest, model, seed, num_seeds, seeds, fit. No Ray is started.
"""

SUBMIT_HELP = """usage: svd-batch submit cluster=NAME [OPTIONS] [KEY=VALUE ...] [+sweep=NAME]

Hand a job to a cluster: {clusters}. All arguments but those of `cluster` go to the job as they are, so the command is
that of `run` with a cluster named; `run --help` has the keys. The same command again goes on where the job stopped.
docs/clusters.md leads from one machine to each kind of cluster.

  svd-batch submit cluster=ray cluster.address=http://HEAD:8265 +sweep=motion manifest=/data/pets.parquet \\
      model=svd_xt output=/data/out/pets

  --dry-run                 print what would be sent, and send nothing
  --no-wait                 end once the job is accepted, instead of following it
  --status                  with the same arguments: say how the job for that output stands
  --stop                    with the same arguments: stop it in order; what is finished is kept
  --apply                   for cluster=kuberay: hand the manifest to kubectl

  cluster=NAME              {clusters}
  cluster.verb=refine       run `refine` there instead of `run`
  cluster.env={{NAME: VALUE}} environment variables of the job
  cluster.env_from=[NAME]   variables whose values are secret: taken from your environment, never shown or written down

With --multirun each combination is a submission of its own. Exit codes are the job's; with --no-wait 0 once it is
accepted.
"""

SUBMIT_OPTIONS = ("--dry-run", "--no-wait", "--status", "--stop", "--apply")

PURPOSES = {
    "run": "Make the videos of a manifest over a sweep. The same command again does only what is missing.",
    "refine": (
        "Make drafts of the whole grid, score each, and make the refine.best cells of each picture in final quality,\n"
        "that is as the other arguments have them. All goes into one folder, where the column `quality` tells them\n"
        "apart. The same command again goes on where it stopped, with the same choice."
    ),
    "plan": "Say what `run` with the same arguments would do: counts, disk, time, pictures that will fail.",
}


def conf_dir() -> Path:
    """Return the folder of the configuration: inside the installed package, else beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def group_options() -> dict[str, list[str]]:
    """Return the names in each config group."""
    groups = sorted(p for p in conf_dir().iterdir() if p.is_dir())
    return {g.name: sorted(f.stem for f in g.glob("*.yaml")) for g in groups}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    code = _code(list(sys.argv[1:] if argv is None else argv))
    end_if_stuck(code)
    return code


def _code(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except (UserError, ProcessError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, UserError) else PROCESS_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our lines has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        print(f"error: {error.filename}: {error.strerror}; move it away, or give another place", file=sys.stderr)
        return USAGE_ERROR
    except Exception as error:
        told = store_error(error)
        if told is not None:
            print(f"error: {printable(unsecret(str(told)))}", file=sys.stderr)
            return USAGE_ERROR
        if not isinstance(error, OSError) or error.errno not in STORAGE_ERRNOS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror}; what is finished is kept, and the same command goes on once that is "
            "mended",
            file=sys.stderr,
        )
        return USAGE_ERROR


def _dispatch(arguments: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], int]] = {
        "run": lambda rest: _job("run", rest),
        "refine": lambda rest: _job("refine", rest),
        "plan": lambda rest: _job("plan", rest),
        "bench": lambda rest: _job("bench", rest),
        "submit": lambda rest: _job("submit", rest),
        "manifest": _manifest,
        "status": _status,
        "report": _report,
        "score": _score,
        "recommend": _recommend,
        "export": _export,
        "verify": _verify,
        "merge": _merge,
        "show": _show,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else USAGE_ERROR
    if arguments[0] == "--version":
        print(f"svd_batch {svd_batch.__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in verbs:
        raise UserError(f"unknown verb {verb!r}; the verbs are {', '.join(verbs)}")
    return verbs[verb](rest)


# --- run, refine, plan and bench: configured by Hydra ----------------------------------------------------------


def _job(verb: str, overrides: list[str]) -> int:
    if "-h" in overrides or "--help" in overrides:
        names = {f"{k[:-1]}ies" if k[-1] == "y" else f"{k}s": " | ".join(v) for k, v in group_options().items()}
        texts = {"bench": BENCH_HELP, "submit": SUBMIT_HELP}
        text = texts[verb] if verb in texts else JOB_HELP.replace("{purpose}", PURPOSES[verb])
        print(text.format(verb=verb, **names), end="")
        return 0
    codes: list[int] = []
    errors: list[Exception] = []
    command = shlex.join([PROGRAM, verb, *map(_without_secret, overrides)])

    def task(node: Any) -> None:  # Hydra prints what a task raises, so nothing may leave it
        if errors or INTERRUPTED in codes:
            return
        try:
            codes.append(_run_configured(verb, node, overrides, command))
        except Exception as error:
            errors.append(error)

    for_hydra = [word for word in overrides if verb != "submit" or word not in SUBMIT_OPTIONS]
    _hydra(task, [f"{PROGRAM} {verb}", *options_first(for_hydra)])
    if errors:
        raise _one_sentence(errors[0])
    return max(codes, default=0)


def _without_secret(override: str) -> str:
    """Return an override without the values of on_end, which may be secret; a reference to the environment is none."""
    return re.sub(r"^(\+{0,2}on_end(?:\.(?:url|command))?=)(?!['\"]?\$\{oc\.env:).*", r"\1…", override, flags=re.DOTALL)


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with all KEY=VALUE last: Hydra's parser refuses an option between two of them."""
    options, overrides = _split_options(arguments)
    return [*options, *overrides]


def _split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (options and their values, KEY=VALUE overrides)."""
    options: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
        is_override = not argument.startswith("-") and not is_value and ("=" in argument or argument[:1] in "+~")
        (overrides if is_override else options).append(argument)
    return options, overrides


def _one_sentence(error: Exception) -> Exception:
    """Return a UserError for what Hydra or OmegaConf refuses, any other error as it is."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from svd_batch.explain import explain

    hydras_own = isinstance(error, ValueError) and "group override" in str(error)  # a plain ValueError of its parser
    refused = isinstance(error, (HydraException, OmegaConfBaseException)) or hydras_own
    return UserError(explain(error, group_options())) if refused else error


def _hydra(task: Callable[[Any], None], argv: list[str]) -> None:
    """Compose the configuration from `argv` and call `task` with it, once a job.

    Raises: UserError with one sentence for whatever Hydra or OmegaConf refuses.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing a traceback and exiting with 1
    store_schemas()
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, argv
    try:
        if not any(word.startswith("-") or "hydra" in word for word in argv[1:]):
            _compose(task, argv[1:])
            return
        with ExitStack() as stack:
            if {"-m", "--multirun"} & set(argv):  # a multirun.yaml is written there, whatever conf/ says
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=temporary_prefix()))
                stack.enter_context(at_once(partial(shutil.rmtree, folder, ignore_errors=True)))
                sys.argv = [*argv, f"hydra.sweep.dir={folder}"]
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    except ValueError as error:  # `task` raises nothing, so this is Hydra's own, of options that don't go together
        raise _one_sentence(error if isinstance(error, UserError) else HydraException(str(error))) from None
    except Exception as error:
        raise _one_sentence(error) from None
    finally:
        sys.argv = before


def _compose(task: Callable[[Any], None], overrides: list[str]) -> None:
    """Call `task` with the configuration of a single job: `hydra.main` composes it twice, 0.2 s each."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        node = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(node)
        with open_dict(node):
            del node["hydra"]
        task(node)


def store_schemas() -> None:
    """Tell Hydra of the typed configuration, and of what each kind of cluster adds to it."""
    from hydra.core.config_store import ConfigStore

    from svd_batch.config import Config
    from svd_batch.submit.settings import CLUSTERS

    ConfigStore.instance().store(name="schema", node=Config)
    for name, kind in CLUSTERS.items():
        ConfigStore.instance().store(group="cluster", name=f"{name}_schema", node=kind)


def _run_configured(verb: str, node: Any, overrides: list[str], command: str) -> int:
    from omegaconf import OmegaConf

    from svd_batch.config import BenchConfig, LoggerConfig, OnEndConfig
    from svd_batch.console import Console
    from svd_batch.explain import check_known
    from svd_batch.job import cautions, prepare
    from svd_batch.preview import preview
    from svd_batch.refine import plan_lines, refine
    from svd_batch.run import run
    from svd_batch.submit.settings import ClusterConfig

    check_known(OmegaConf.to_container(node))  # `+key=value` slips past the typed schema
    config = cast("Config", OmegaConf.to_object(node))  # runs every range check
    console = Console()
    real_verb = config.cluster.verb.value if verb == "submit" else verb
    if real_verb in ("bench", "refine") and config.logger != LoggerConfig():
        raise UserError(f"logger: {real_verb} has no use for this section; leave it out, or give the verb run")
    if verb == "bench" and config.on_end != OnEndConfig():
        raise UserError("on_end: bench has no use for this section; leave it out, or give the verb run")
    if verb == "bench":
        from svd_batch.bench import bench

        return bench(config, console, command=command)
    if config.bench != BenchConfig():
        raise UserError(f"bench: {verb} has no use for this section; leave it out, or give the verb bench")
    if verb == "submit":
        return _submit(config, overrides)
    if config.cluster != ClusterConfig():
        raise UserError(f"cluster: {verb} has no use for this section; leave it out, or give the verb submit")
    config.output = config.output or default_output(config, overrides)
    if verb == "plan":
        job = prepare(config, need_weights=False)
        for caution in cautions(job):
            console.warn(caution)
        for line in preview(job) if config.refine.best is None else plan_lines(job):
            console.say(line)
        return 0
    _check_refine(verb, config)
    if config.manifest is None:
        console.say(
            "bundled pictures and checkpoint; for the real thing give manifest=YOUR.parquet model=svd_xt output=FOLDER"
            if config.model.id == "pocket"
            else "bundled pictures; give manifest=YOUR.parquet for your own"
        )
    saved = OmegaConf.structured(config)
    saved.on_end.url, saved.on_end.command = ("…" if v else None for v in (config.on_end.url, config.on_end.command))
    text = OmegaConf.to_yaml(saved)
    return (refine if verb == "refine" else run)(config, console, config_yaml=text, command=command)


def _check_refine(verb: str, config: Config) -> None:
    if verb == "run" and config.refine.best is not None:
        raise UserError("refine.best: `run` makes the whole grid in one quality; use the verb `refine`")
    if verb == "refine" and config.refine.best is None:
        raise UserError("refine.best: none given; say how many cells of each picture to make in final quality")


def _submit(config: Config, overrides: Sequence[str]) -> int:
    """Hand the job to the cluster that its configuration names."""
    from svd_batch.console import Console
    from svd_batch.submit.settings import SlurmCluster
    from svd_batch.submit.submission import Submission, make_cluster

    options = [word for word in overrides if word in SUBMIT_OPTIONS]
    for word in overrides:
        if _without_secret(word) != word:
            raise UserError(
                f"{word.lstrip('+').partition('=')[0]}: may hold a secret, and a job's command is shown on its "
                "cluster; give '${oc.env:NAME}', and NAME in cluster.env_from"
            )
    _check_refine(config.cluster.verb.value, config)
    is_one_node = isinstance(config.cluster, SlurmCluster) and config.cluster.nodes == 1
    if config.backend.kind.value != "ray" and not is_one_node:
        raise UserError(f"backend: {config.backend.kind.value} makes all in one process; a cluster needs backend=ray")
    console = Console()
    output = config.output or default_output(config, overrides)
    cluster = make_cluster(Submission(config, output, tuple(_job_arguments(overrides)), conf_dir()))
    if "--dry-run" in options:
        print(cluster.plan(), end="")
        return 0
    if "--status" in options:
        return cluster.status(console.say)
    if "--stop" in options:
        return cluster.stop(console.say)
    return cluster.submit(console.say, console.warn, wait="--no-wait" not in options, apply="--apply" in options)


def _job_arguments(overrides: Sequence[str]) -> list[str]:
    """Return what goes to a submitted job as it is: --config-dir and the overrides of this job of a multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    options = [word for word in _split_options(overrides)[0] if word not in (*SUBMIT_OPTIONS, "-m", "--multirun")]
    for option, folder in pairwise(options[:]):
        if option in ("--config-dir", "-cd") and not _is_read_by_the_job(folder):
            options = [word for word in options if word not in (option, folder)]
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # ${oc.env:NAME} stays as it is
    given = OverridesParser.create().parse_overrides(cast("list[str]", task))
    ours = ("cluster", "output", "backend.address")
    kept = [o.input_line for o in given if o.key_or_group not in ours and not o.key_or_group.startswith("cluster.")]
    return [*options, *(line for line in kept if line is not None)]


def _is_read_by_the_job(config_dir: str) -> bool:
    """Return whether a folder of configuration holds more of what was chosen than the cluster, which stays here."""
    from hydra.core.hydra_config import HydraConfig

    chosen = {str(group): option for group, option in HydraConfig.get().runtime.choices.items() if option}
    return any(
        Path(config_dir, f"{group}/{option}.yaml").exists() for group, option in chosen.items() if group != "cluster"
    )


def default_output(config: Config, overrides: Sequence[str]) -> str:
    """Return outputs/<manifest's name>, or outputs/<sweep's name>; another for each multirun job."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if config.manifest is not None:
        name = Path(config.manifest[0]).stem.replace("*", "").strip("-_. ") or "manifest"
    else:
        chosen = hydra_config.runtime.choices.get("sweep")
        name = chosen or ("custom" if len(config.cells()) > 1 else "single")
    if hydra_config.mode is RunMode.MULTIRUN:
        given = OverridesParser.create().parse_overrides(_split_options(overrides)[1])
        swept = {o.get_key_element() for o in given if o.is_sweep_override()}
        varying = [o for o in hydra_config.overrides.task if o.partition("=")[0] in swept]
        # nothing that means something to a shell, to a glob or to `load_dataset`
        name += "".join("-" + re.sub(r"[^\w.+-]+", "_", o.lstrip("+")).strip("_") for o in varying)
    if config.shard is not None:
        name += f"-{config.shard.replace('/', '-of-')}"
    return f"outputs/{name}"


def _output(text: str) -> Path:
    """Return an output folder that was given as an argument."""
    try:
        return location(text)
    except UserError as error:  # else argparse hides what it says
        raise argparse.ArgumentTypeError(str(error)) from None


# --- the verbs with plain arguments -----------------------------------------------------------------------


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"{PROGRAM} {verb}", description=description)


def _manifest(rest: list[str]) -> int:
    parser = _parser("manifest", "Make a Parquet manifest from the pictures in a folder; every file is opened once.")
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("-o", "--out", type=Path, required=True, help="manifest to write, e.g. pets.parquet")
    parser.add_argument("--flat", action="store_true", help="leave sub-folders out")
    arguments = parser.parse_args(rest)
    from svd_batch.manifest import write_manifest

    scan = write_manifest(arguments.folder, arguments.out, recursive=not arguments.flat)
    print(f"{arguments.out}: {scan.num_images} pictures, {len(scan.left_out)} files left out")
    for path, reason in scan.left_out:
        print(f"  left out {path}: {reason}")
    return 0


def _status(rest: list[str]) -> int:
    parser = _parser(
        "status",
        "Say how the last run into OUTPUT gets on, from any machine that can read the folder, while the run goes on, "
        "afterwards, and after it was killed: who writes, videos done, failed and left, rate and time left, failures "
        "by kind, machines, videos in the making, disk, and the command that goes on. Writes nothing. "
        "docs/operating.md says what each line means.",
    )
    parser.add_argument("output", type=_output, nargs="+", help="output folder of a run")
    parser.add_argument("--json", action="store_true", help="one line of JSON a folder")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="again every so many seconds (5) until no run goes on",
    )
    arguments = parser.parse_args(rest)
    if arguments.watch is not None and not arguments.watch >= 1:
        parser.error(f"--watch: {arguments.watch:g} is not accepted; give 1 second or more")
    from svd_batch import status

    if arguments.watch is None:
        status.show(arguments.output, as_json=arguments.json)
    else:
        status.watch(arguments.output, arguments.watch, as_json=arguments.json)
    return 0


def _report(rest: list[str]) -> int:
    parser = _parser(
        "report",
        "Write one HTML page that needs no server and no network: the grid of clips, which cell makes what you want, "
        "the clips that stand out, failures, costs and provenance. Several folders are compared side by side.",
    )
    parser.add_argument("output", type=_output, nargs="+", help="output folder of a run")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: report.html in the first OUTPUT")
    parser.add_argument("--embed", action="store_true", help="put the clips into the page, for mailing it")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=10.0,
        metavar="SECONDS",
        help="write the page again every so many seconds (10) until the run is over; it loads itself anew",
    )
    _add_extras(parser)
    arguments = parser.parse_args(rest)
    if arguments.watch is not None and not arguments.watch >= 1:
        parser.error(f"--watch: {arguments.watch:g} is not accepted; give 1 second or more")
    from svd_batch.report import write_report
    from svd_batch.report.extras import write_extras
    from svd_batch.report.watch import watch

    if arguments.watch is not None:
        path = watch(
            arguments.output, arguments.out, arguments.watch, embed=arguments.embed, markdown=arguments.markdown
        )
    else:
        path = write_report(arguments.output, arguments.out, embed=arguments.embed, markdown=arguments.markdown)
    if arguments.embed and path.stat().st_size > _MAILABLE_BYTES:
        megabytes = path.stat().st_size / 1e6
        print(f"warning: {path} has {megabytes:.0f} MB; many mail servers take no more than 25", file=sys.stderr)
    print(path.resolve().as_uri())
    for line in write_extras(arguments.output, arguments):
        print(line)
    return 0


def _add_extras(parser: argparse.ArgumentParser) -> None:
    """Add the options of what `report` writes beside the page."""
    text = "also write OUTPUT/report/report.md with its plots as PNG and SVG, for a README or a paper"
    parser.add_argument("--markdown", action="store_true", help=text)
    text = "also write OUTPUT/report/contact/IMAGE.png and .gif: all clips of a picture at once"
    parser.add_argument("--contact-sheets", action="store_true", help=text)


def _recommend(rest: list[str]) -> int:
    parser = _parser(
        "recommend",
        "Say which cell of a finished sweep comes nearest to what you want, for all pictures and for each. Only cells "
        "that were made are considered, nothing is interpolated. METRIC is any numeric column of metadata.parquet.",
    )
    parser.add_argument("outputs", nargs="+", type=_output, metavar="OUTPUT", help="output folders of runs")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--motion", metavar="VALUE", help="wanted motion in px a frame; or `most`, `least`")
    wanted.add_argument("--target", metavar="METRIC=VALUE", help="the same for any metric, e.g. flicker=least")
    parser.add_argument("--min-likeness", metavar="VALUE", help="short for --at-least likeness=VALUE")
    for side in ("least", "most"):
        text = f"a bound to keep; may be given again, e.g. {'likeness=0.8' if side == 'least' else 'flicker=4'}"
        parser.add_argument(f"--at-{side}", metavar="METRIC=VALUE", action="append", default=[], help=text)
    parser.add_argument(
        "--pictures",
        metavar="SHARE",
        default="0.5",
        help="fraction of a cell's pictures that must keep the bounds (default 0.5: the median picture does)",
    )
    parser.add_argument("--per-image", action="store_true", help="each picture's own cell as well")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="print a sweep for `+sweep=` instead of a table")
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args(rest)
    from svd_batch.analysis.advice import answer

    print(answer(arguments))
    return 0


def _score(rest: list[str]) -> int:
    parser = _parser(
        "score",
        "Measure what the videos of OUTPUT lack of the metrics (docs/metrics.md) and write it into metadata.parquet. "
        "Files are measured as they are, with what their codec lost; the column metrics_source tells. The same command "
        "goes on where it was interrupted. Exit code 0: all measured; 1: files missing or damaged.",
    )
    parser.add_argument("output", type=_output, help="output folder of a run")
    parser.add_argument("--metrics", metavar="NAME,NAME", help="these alone; without it all")
    parser.add_argument("--force", action="store_true", help="measure anew what has been measured, from the files")
    arguments = parser.parse_args(rest)
    from svd_batch.console import Console
    from svd_batch.score import score

    names = None if arguments.metrics is None else [name.strip() for name in arguments.metrics.split(",")]
    return score(arguments.output, Console(), names=names, force=arguments.force)


def _export(rest: list[str]) -> int:
    from svd_batch.export.settings import TABLES, TARGETS, ExportSettings

    parser = _parser(
        "export",
        "Write what other tools open. csv, json, jsonl: the table, one row a video. wandb: a run of Weights & Biases "
        "with a table of videos, parameters and metrics. tensorboard: hyperparameters, metrics and clips. vbench: a "
        "folder that `vbench evaluate --mode=custom_input` takes. See docs/exports.md. wandb and tensorboard need "
        "pip install 'svd_batch[wandb]' or 'svd_batch[tensorboard]'.",
    )
    parser.add_argument("output", type=_output, help="output folder of a run, finished or not")
    parser.add_argument("--to", required=True, metavar="TARGET", help=f"one of {', '.join(TARGETS)}")
    parser.add_argument(
        "-o", "--place", type=Path, help="file (- for the shell) or folder to write; default below OUTPUT/exports"
    )
    parser.add_argument("--table", default="videos", metavar="NAME", help=f"csv, json, jsonl: {' or '.join(TABLES)}")
    parser.add_argument("--project", help="wandb: project (default svd_batch)")
    parser.add_argument("--name", help="wandb: name of the run (default: the folder's)")
    parser.add_argument("--entity", help="wandb: team or user (default: the account's)")
    parser.add_argument(
        "--offline", action="store_true", help="wandb: write to disk alone; `wandb sync` sends it later"
    )
    parser.add_argument("--no-videos", action="store_true", help="wandb, tensorboard: parameters and metrics alone")
    parser.add_argument("--captions", metavar="COLUMN", help="vbench: carried column with prompts (default: caption)")
    arguments = vars(parser.parse_args(rest))
    output, place, target = (arguments.pop(name) for name in ("output", "place", "to"))
    settings = ExportSettings(target, **arguments)
    from svd_batch.export import export

    for line in export(output, settings, place):
        print(line)
    return 0


def _verify(rest: list[str]) -> int:
    parser = _parser(
        "verify",
        "Check that every row of metadata.parquet has its video, with the size, sha256, frames and dimensions that the "
        "table states. Exit code 0: whole; 1: problems found.",
    )
    parser.add_argument("output", type=_output, help="output folder of a run")
    parser.add_argument(
        "--forget",
        action="store_true",
        help="drop the records of damaged videos, so that the next run makes them again",
    )
    arguments = parser.parse_args(rest)
    from svd_batch.store import Store
    from svd_batch.verify import problems

    found = list(problems(arguments.output))
    for problem in found:
        print(f"{problem.video_id}: {problem.reason}")
        if arguments.forget and not problem.is_finished:
            Store(arguments.output).forget(problem.video_id)
    verb = "forgotten; the next run makes them again" if arguments.forget and found else "found"
    print(f"{arguments.output}: {len(found)} problems {verb}")
    return PROBLEMS_FOUND if found else 0


def _merge(rest: list[str]) -> int:
    parser = _parser(
        "merge",
        "Put the finished videos of several output folders into one, with tables, failures and a page: shards of a "
        "job, or runs of several machines, made with the same settings. Videos are hard links where both lie on one "
        "file system, else copies; the sources stay as they are. The same command again adds what was finished since.",
    )
    parser.add_argument("outputs", nargs="+", type=_output, metavar="OUTPUT", help="output folders of runs")
    parser.add_argument("-o", "--out", type=_output, required=True, help="folder to merge into, new or merged before")
    arguments = parser.parse_args(rest)
    from svd_batch.console import Console
    from svd_batch.merge import merge

    return merge(arguments.outputs, arguments.out, Console())


def _show(rest: list[str]) -> int:
    parser = _parser(
        "show",
        "Print one video's row, a command that makes this video again in a new folder, and a script that makes it with "
        "stock diffusers. The script's pixels are those of the job, except for what another torch or device rounds "
        "otherwise and for what the video file's codec loses.",
    )
    parser.add_argument("output", type=_output, help="output folder of a run")
    parser.add_argument("video_id", help="a video_id, its first hex digits (4 or more), or the video's file")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--script", action="store_true", help="print the script alone, as in … --script > one.py")
    only.add_argument("--command", action="store_true", help="print the command alone, as in … --command | bash")
    only.add_argument("--json", action="store_true", help="print the row alone, as JSON")
    only.add_argument("--manifest", type=Path, metavar="FILE", help="write a one-row manifest of the video's picture")
    arguments = parser.parse_args(rest)
    from svd_batch import show

    shown = show.find(arguments.output, arguments.video_id)
    if arguments.json:
        print(json.dumps(show.row(shown), default=str, indent=2, ensure_ascii=False))
    elif arguments.command:
        print(show.command(shown))
    elif arguments.script:
        print(show.script(shown), end="")
    elif arguments.manifest:
        show.write_one_row_manifest(shown, arguments.manifest)
        print(f"{arguments.manifest}: 1 picture")
    else:
        print("\n".join(show.row_lines(show.row(shown))))
        print(f"\n# This video again, in a new folder:\n{show.command(shown)}")
        print(f"\n# This video with stock diffusers (--script prints this alone):\n{show.script(shown)}", end="")
    changed = None if arguments.json or arguments.manifest else show.changed_checkpoint(shown)
    if changed:
        print(f"note: {changed}", file=sys.stderr)
    return 0
