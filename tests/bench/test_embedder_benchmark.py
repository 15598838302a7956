"""The embedder benchmark measures what it says. How fast anything is, is not tested."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.embedder import benchmark, gpu, report
from bench.embedder.models import gflop_per_image
from bench.embedder.objects import SYNTAXES, slices
from bench.embedder.results import STOCK, Plan, Results, Run
from shared.pixels import PixelLimits, read_frames

TINY = Plan(models=("tiny",), images=2, repeats=2, input_px=56, is_compiled=False, has_start_up=False, soak_frames=40)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    work = tmp_path_factory.mktemp("bench")
    return benchmark.measure(TINY, checkout=work, work=work, progress=lambda _text: None)


def test_every_pipeline_has_its_turn_in_every_block(results):
    found = {(run.model, run.pipeline, run.syntax, run.block) for run in results.runs}
    embedding = {("tiny", name, "uncompressed") for name in (STOCK, "stock batch 8", "float32", "bf16")}
    loading = {("load", name, syntax) for name in (STOCK, "similis") for syntax in SYNTAXES}
    assert found == {(*run, block) for run in embedding | loading for block in range(2)}
    assert results.soak is not None
    assert results.soak.frames >= 40


def test_equal_results_are_measured_beside_the_speed(results):
    exact, bf16 = results.equalities
    assert exact.pipeline == "float32"
    assert exact.relative_error < 1e-5
    assert exact.top10_overlap == 1
    assert 1e-5 < bf16.relative_error < 0.02


def test_tables_plot_and_json_hold_what_was_measured(results, tmp_path):
    text = report.markdown(results)
    assert "| tiny, bf16 |" in text
    assert "| JPEG-LS, similis |" in text
    assert "Memory over 40 frames" in text
    report.draw(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    kept = results.model_dump_json()
    assert Results.model_validate_json(kept) == results
    assert str(tmp_path.parent) not in kept


def test_ratios_are_taken_within_a_block(results):
    def run(block: int, pipeline: str, cpu_ms: float) -> Run:
        return Run(
            block=block,
            model="S",
            pipeline=pipeline,
            syntax="uncompressed",
            cpu_ms_per_image=cpu_ms,
            wall_ms_per_image=1,
        )

    runs = (run(0, STOCK, 10), run(0, "bf16", 2), run(1, STOCK, 90), run(1, "bf16", 30), run(2, STOCK, 5))
    assert report.ratios(results.model_copy(update={"runs": runs}), "S", "bf16") == [5, 3]


def test_the_encodings_hold_the_same_pixels():
    first = [read_frames(slices(1, syntax, side_px=64)[0], limits=PixelLimits())[0].pixels for syntax in SYNTAXES]
    for other in first[1:]:
        np.testing.assert_array_equal(other, first[0])


def test_operations_are_those_of_the_published_sizes():
    assert [round(gflop_per_image(name, 224), 1) for name in "SBL"] == [12.2, 46.3, 162.0]


def test_the_gpu_benchmark_runs_on_a_cpu():
    options = ["--models", "tiny", "--sizes", "28", "--batch", "2", "--seconds", "0.2", "--device", "cpu", "--eager"]
    app = gpu.typer.Typer()
    app.command()(gpu.main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout[done.stdout.index("{") :])["rows"]
    assert row["model_images_per_s"] > 0
    assert row["p99_ms_at_70_percent_load"] > 0
