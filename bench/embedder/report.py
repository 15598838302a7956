"""Tables and the plot. Ratios are taken within a block and only then summed up by their median."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.embedder.results import STOCK, Measurements, Results, Run, Soak


def ratios(results: Results, model: str, pipeline: str, syntax: str = "uncompressed") -> list[float]:
    """CPU time of stock at batch 1 divided by that of `pipeline`, block by block."""
    ours = {run.block: run for run in _of(results, model, pipeline, syntax)}
    return [
        stock.cpu_ms_per_image / ours[stock.block].cpu_ms_per_image
        for stock in _of(results, model, STOCK, syntax)
        if stock.block in ours
    ]


def matmul_share(results: Results, model: str, pipeline: str) -> float | None:
    """Operations a CPU second, from file to embedding, as a share of the matrix product's in the same run."""
    precision = "bfloat16" if pipeline.startswith("bf16") else "float32"
    peak = next((peak.gflop_per_cpu_s for peak in results.peaks if peak.precision == precision), None)
    gflop = results.gflop_per_image.get(model)
    if peak is None or gflop is None:
        return None
    spent_s = statistics.median(run.cpu_ms_per_image for run in _of(results, model, pipeline)) / 1e3
    return gflop / spent_s / peak


def markdown(results: Results) -> str:
    """All tables."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield (
        f"Ratios are of CPU time. {results.machine.cpu}, {results.machine.cores} cores, torch {results.torch}, "
        f"{results.threads} threads, {results.made_at}{'' if results.is_complete else ', interrupted'}"
    )
    if any(run.model in results.plan.models for run in results.runs):
        yield ""
        yield "| DICOM file to embedding | CPU ms | wall ms | ratio to stock (least-most) | share of matmul |"
        yield "|---|---|---|---|---|"
        for model in results.plan.models:
            for pipeline in _pipelines(results, model):
                yield _row(results, model, pipeline, "uncompressed", f"{model}, {pipeline}", with_share=True)
    if any(run.model == "load" for run in results.runs):
        yield ""
        yield "| load: file to model input | CPU ms | wall ms | ratio to stock (least-most) |"
        yield "|---|---|---|---|"
        for syntax in dict.fromkeys(run.syntax for run in results.runs if run.model == "load"):
            for pipeline in _pipelines(results, "load"):
                yield _row(results, "load", pipeline, syntax, f"{syntax}, {pipeline}", with_share=False)
    if results.equalities:
        yield ""
        yield "| beside Hugging Face float32, same pixels | relative error | largest difference | top-10 overlap |"
        yield "|---|---|---|---|"
    for one in results.equalities:
        yield (
            f"| {one.model}, {one.pipeline} | {one.relative_error:.1e} | {one.largest_difference:.1e} "
            f"| {one.top10_overlap:.3f} |"
        )
    yield ""
    for peak in results.peaks:
        yield f"- Matrix product, {peak.precision}: {peak.gflop_per_cpu_s:.0f} GFLOP a CPU second"
    for name, seconds in results.start_up_cpu_s.items():
        yield f"- Start of a process to its first vector, {name}: {seconds:.1f} CPU s"
    if results.soak is not None:
        yield _soak_line(results.soak)
    for name, reason in results.not_measured.items():
        yield f"- Not measured: {name}: {reason}"


def _soak_line(soak: Soak) -> str:
    later = soak.rss_bytes[1:] or soak.rss_bytes
    model = "a tiny model with random weights" if soak.model == "tiny" else soak.model
    return (
        f"- Memory over {soak.frames} frames ({', '.join(soak.encodings)} in turn; {model}): "
        f"{later[0] / 1e6:.0f} MB after a tenth, {later[-1] / 1e6:.0f} MB at the end, at most {max(later) / 1e6:.0f} MB"
    )


def _row(results: Results, model: str, pipeline: str, syntax: str, title: str, *, with_share: bool) -> str:
    runs = _of(results, model, pipeline, syntax)
    if not (found := ratios(results, model, pipeline, syntax)):
        return f"| {title} | |"
    cpu, wall = (statistics.median(getattr(run, f"{kind}_ms_per_image") for run in runs) for kind in ("cpu", "wall"))
    cells = [title, f"{cpu:.2f}", f"{wall:.2f}", f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"]
    if with_share:
        share = matmul_share(results, model, pipeline)
        cells.append("" if share is None else f"{100 * share:.0f} %")
    return f"| {' | '.join(cells)} |"


def draw(kept: Measurements, path: Path) -> None:
    """Ratios of CPU time, from DICOM file to embedding: a panel for each machine and plan."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(results, bars) for results in kept.measurements if (bars := _bars(results))]
    heights = [len(bars) for _, bars in panels]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(7, 0.9 * len(panels) + 0.28 * sum(heights)),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for panel, (results, bars) in zip(axes[:, 0], panels, strict=True):
        for place, (_, found) in enumerate(reversed(bars)):
            middle = statistics.median(found)
            panel.barh(place, middle, color="#4477aa", xerr=[[middle - min(found)], [max(found) - middle]])
            panel.text(max(found), place, f" {middle:.1f}", va="center")
        panel.set_yticks(range(len(bars)), [title for title, _ in reversed(bars)])
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(_title(results), fontsize=9, loc="left")
        panel.margins(x=0.08)
    axes[-1, 0].set_xlabel("times less CPU than stock at batch 1, uncompressed 512 x 512")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(results: Results) -> list[tuple[str, list[float]]]:
    return [
        (f"{model} {pipeline}", found)
        for model in (*results.plan.models, "load")
        for pipeline in _pipelines(results, model)
        if pipeline != STOCK and (found := ratios(results, model, pipeline))
    ]


def _title(results: Results) -> str:
    """The machine by what counts here: its matrix products in GFLOP a CPU second."""
    products = ", ".join(f"{peak.precision} {peak.gflop_per_cpu_s:.0f}" for peak in results.peaks)
    return (
        f"{results.machine.cpu}, {results.threads} of {results.machine.cores} cores, {results.made_at[:10]}\n"
        f"matrix product, GFLOP/s: {products}"
    )


def _pipelines(results: Results, model: str) -> list[str]:
    return list(
        dict.fromkeys(run.pipeline for run in sorted(results.runs, key=lambda r: r.block) if run.model == model)
    )


def _of(results: Results, model: str, pipeline: str, syntax: str = "uncompressed") -> list[Run]:
    return [run for run in results.runs if (run.model, run.pipeline, run.syntax) == (model, pipeline, syntax)]
