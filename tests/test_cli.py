"""The command line: verbs, help, exit codes, and answers before anything heavy is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Cli

from svd_batch import cli as command_line

VERBS = ["run", "refine", "plan", "bench", "submit"]
VERBS += ["manifest", "status", "report", "score", "recommend", "export", "verify", "merge", "show"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_that_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys; from svd_batch import cli\n"
        f"try: cli.main(['{verb}', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'hydra', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: svd-batch {verb}" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_overview_and_in_the_readme(verb: str) -> None:
    assert re.search(rf"^  {verb}\b", command_line.HELP, re.MULTILINE)
    assert f"svd-batch {verb}" in (ROOT / "README.md").read_text()


def test_no_argument_shows_the_overview_and_is_a_usage_error(cli_here: Cli) -> None:
    result = cli_here()
    assert result.returncode == 2
    assert result.stdout == command_line.HELP


def test_an_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["rnu"]) == 2
    known = "run, refine, plan, bench, submit, manifest, status, report, score, recommend, export, verify, merge, show"
    assert capsys.readouterr().err == f"error: unknown verb 'rnu'; the verbs are {known}\n"


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    from svd_batch import __version__

    assert command_line.main(["--version"]) == 0
    assert capsys.readouterr().out == f"svd_batch {__version__}\n"


def test_cfg_job_prints_the_configuration_and_stops(cli_here: Cli, tmp_path: Path) -> None:
    result = cli_here("run", "+sweep=motion", "model=svd_xt", "--cfg", "job")
    assert result.returncode == 0
    assert "id: stabilityai/stable-video-diffusion-img2vid-xt" in result.stdout
    assert not list(tmp_path.iterdir())


def test_info_tells_where_the_configuration_comes_from(cli_here: Cli) -> None:
    result = cli_here("run", "--info", "searchpath")
    assert result.returncode == 0
    assert "conf" in result.stdout


def test_pocket_lowers_guidance_and_an_override_still_wins(cli_here: Cli) -> None:
    def guidance(*overrides: str) -> str:
        return re.findall(r"max_guidance_scale: ([\d.]+)", cli_here("run", *overrides, "--cfg", "job").stdout)[0]

    assert float(guidance()) < float(guidance("model=svd_xt")) == 3.0
    assert guidance("generation.max_guidance_scale=2.5") == "2.5"


def test_a_hub_that_can_not_be_reached_is_one_sentence(cli: Cli) -> None:
    result = cli("run", "model=svd_xt", HF_HUB_OFFLINE="1", HF_HOME="hub")
    assert result.returncode == 2
    assert "is not on this machine and the hub can't be reached" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_manifest_lists_what_it_took_and_what_it_left_out_and_why(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes((pictures / name).read_bytes())
    (folder / "broken.jpg").write_text("not a picture")
    assert command_line.main(["manifest", str(folder), "-o", str(tmp_path / "m.parquet")]) == 0
    out = capsys.readouterr().out
    assert "2 pictures, 1 files left out" in out
    assert "left out broken.jpg: not a picture" in out


def test_report_and_verify_refuse_a_folder_that_is_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["report", str(tmp_path)]) == 2
    assert command_line.main(["verify", str(tmp_path)]) == 2
    assert "error: report:" in capsys.readouterr().err


def test_the_generated_parts_of_the_docs_are_up_to_date() -> None:
    script = [sys.executable, str(ROOT / "scripts/document"), "--check"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m svd_batch plan | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
