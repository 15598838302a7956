"""The embedder benchmark measures what it says. How fast anything is, is not tested."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.embedder import benchmark, gpu, report, threads
from bench.embedder.models import gflop_per_image
from bench.embedder.objects import SYNTAXES, slices
from bench.embedder.results import STOCK, Measurements, Plan, Results, Run, keep, read
from shared.pixels import PixelLimits, read_frames

TINY = Plan(
    models=("tiny",),
    images=2,
    repeats=2,
    input_px=56,
    precisions=("float32", "bf16"),
    is_compiled=False,
    has_start_up=False,
    soak_frames=40,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept") / "results" / "embedder.json"


@pytest.fixture(scope="module")
def states(file, tmp_path_factory) -> list[Results]:
    """What was kept after each step."""
    work = tmp_path_factory.mktemp("bench")
    found: list[Results] = []

    def keep_it(results: Results) -> None:
        keep(file, results)
        found.append(read(file).measurements[-1])

    benchmark.measure(TINY, checkout=work, work=work, progress=lambda _text: None, keep=keep_it)
    return found


@pytest.fixture(scope="module")
def results(states) -> Results:
    return states[-1]


def test_every_pipeline_has_its_turn_in_every_block(results):
    found = {(run.model, run.pipeline, run.syntax, run.block) for run in results.runs}
    embedding = {("tiny", name, "uncompressed") for name in (STOCK, "stock batch 8", "float32", "bf16")}
    loading = {("load", name, syntax) for name in (STOCK, "similis") for syntax in SYNTAXES}
    assert found == {(*run, block) for run in embedding | loading for block in range(2)}


def test_the_soak_runs_every_encoding_through_a_tiny_model(results):
    assert results.soak.frames >= 40
    assert results.soak.model == "tiny"
    assert set(results.soak.encodings) == set(SYNTAXES)
    assert len(results.soak.rss_bytes) == 20


def test_an_interrupt_costs_one_block(states):
    """A kept state holds every block before it, and says that it is not all."""
    counts = [len(state.runs) for state in states]
    assert counts == sorted(counts)
    assert max(after - before for before, after in pairwise(counts)) == 4  # one block of four pipelines
    assert [state.is_complete for state in states] == [False] * (len(states) - 1) + [True]
    assert "interrupted" in report.markdown(states[-2])
    for state in states:
        report.markdown(state)


def test_a_file_keeps_one_measurement_for_each_machine_and_plan(results, tmp_path):
    path = tmp_path / "kept.json"
    elsewhere = results.model_copy(update={"machine": results.machine.model_copy(update={"cpu": "another"})})
    again = results.model_copy(update={"made_at": "later"})
    for one in (results, elsewhere, again):
        keep(path, one)
    assert read(path).measurements == (elsewhere, again)
    assert [found.name for found in tmp_path.iterdir()] == ["kept.json"]


def test_the_kept_measurements_can_be_read_and_shown():
    kept = read(Path(__file__).parents[2] / "bench" / "results" / "embedder.json")
    assert all(report.markdown(one) for one in kept.measurements)
    assert all(one.is_complete for one in kept.measurements)


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
    report.draw(Measurements(measurements=(results, results)), tmp_path / "plot.png")
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


def test_a_way_of_using_threads_is_measured_in_a_process_of_its_own(monkeypatch, tmp_path, capsys):
    way = "two batches at once, 1 thread each"
    monkeypatch.setattr(threads, "WAYS", {way: threads.WAYS[way]})
    threads.main(model="tiny", rounds=1, batches=2, json_file=tmp_path / "threads.json")
    ways = json.loads((tmp_path / "threads.json").read_text())["ways"]
    (run,) = ways[way]
    assert min(run["wall_ms"], run["cpu_ms"], run["batch_ms"]) > 0
    assert f"| {way} |" in capsys.readouterr().out
