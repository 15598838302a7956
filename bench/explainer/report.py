"""Tables and the plot. A ratio is of CPU time on one image, the published procedure's divided by a pipeline's."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.explainer.results import PUBLISHED, Results, Run


def ratios(results: Results, model: str, pipeline: str) -> list[float]:
    """CPU time of the published procedure divided by that of `pipeline`, image by image."""
    published = {run.image: run.cpu_s for run in results.runs if (run.model, run.pipeline) == (model, PUBLISHED)}
    return [published[run.image] / run.cpu_s for run in _of(results, model, pipeline) if run.image in published]


def markdown(results: Results) -> str:
    """All tables."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    busy = "" if results.load_average < 1.5 else f", load {results.load_average:.1f} before the run: others were busy"
    yield (
        f"{results.machine.cpu}, {results.machine.cores} cores, torch {results.torch}, {results.threads} threads, "
        f"{results.made_at}{busy}; bfloat16 multiplies {results.matmul_gain_of_bf16:.2f} times as fast as float32"
    )
    yield ""
    yield (
        "| model, pipeline | masks | passes | CPU s a map | ratio of CPU time to published | outside masked passes "
        "| peak memory | Pearson with published, other noise |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for model in results.plan.models:
        for pipeline in dict.fromkeys(run.pipeline for run in results.runs if run.model == model):
            runs, found = _of(results, model, pipeline), ratios(results, model, pipeline)
            cells = [
                f"{model}, {pipeline}",
                "/".join(str(run.masks) for run in runs),
                "/".join(str(run.forwards) for run in runs),
                f"{statistics.fmean(run.cpu_s for run in runs):.1f}",
                f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})",
                f"{100 * statistics.fmean(1 - run.masked_cpu_s / run.cpu_s for run in runs):.1f} %",
                f"{max(run.peak_rss_bytes for run in runs) / 1e9:.2f} GB",
                f"{min(run.pearson for run in runs):.4f}",
            ]
            yield f"| {' | '.join(cells)} |"
    yield ""
    yield "| model, forward pass alone, batch of 8 | CPU ms an image | GFLOP a CPU second |"
    yield "|---|---|---|"
    for kernel in results.kernels:
        yield (f"| {kernel.model}, {kernel.forward} | {kernel.cpu_ms_per_image:.0f} | {kernel.gflop_per_cpu_s:.0f} |")
    yield ""
    for one in results.queued:
        yield (
            f"- {one.model}, {one.images} images in one queue ({one.masks} masks in all): {one.together_cpu_s:.1f} "
            f"CPU s; one by one {one.alone_cpu_s:.1f} CPU s"
        )


def draw(results: Results, path: Path) -> None:
    """Ratios of CPU time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    bars = [
        (f"{model}, {pipeline}", ratios(results, model, pipeline))
        for model in results.plan.models
        for pipeline in dict.fromkeys(run.pipeline for run in results.runs if run.model == model)
        if pipeline != PUBLISHED
    ]
    for place, (_, found) in enumerate(reversed(bars)):
        middle = statistics.median(found)
        axes.barh(place, middle, color="#4477aa", xerr=[[middle - min(found)], [max(found) - middle]])
        axes.text(max(found), place, f" {middle:.1f}", va="center")
    axes.set_yticks(range(len(bars)), [title for title, _ in reversed(bars)])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times less CPU a map than the published procedure")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _of(results: Results, model: str, pipeline: str) -> list[Run]:
    return [run for run in results.runs if (run.model, run.pipeline) == (model, pipeline)]
