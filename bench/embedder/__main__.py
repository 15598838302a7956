"""`python -m bench.embedder`: measure, print tables, keep the JSON, draw the plot."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.embedder import report
from bench.embedder.benchmark import KNOWN_MODELS, measure
from bench.embedder.results import Measurements, Plan, keep, read
from shared.errors import SimilisError

CHECKOUT: Final = Path(__file__).resolve().parents[2]
QUICK: Final = Plan(models=("S",), images=8, repeats=2, is_compiled=False, has_start_up=False)


def main(
    models: Annotated[str | None, typer.Option(help="S, B, L, such as S,B; none: only what else is asked for.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Slices in each run.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Blocks of runs.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Whether it works, not how fast.")] = False,
    soak: Annotated[int, typer.Option(min=0, help="Also watch the memory over so many frames, such as 20000.")] = 0,
    soak_model: Annotated[
        str | None, typer.Option(help="The model of the soak; default: tiny, random weights.")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option(help="float32,bf16; default: bf16 only where it multiplies matrices faster.")
    ] = None,
    compiled: Annotated[bool | None, typer.Option("--compiled/--eager", help="Also the compiled forward.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where to keep every run, beside other machines'.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw a PNG or SVG.")] = None,
    from_json: Annotated[Path | None, typer.Option(help="Measure nothing: show what was kept by --json.")] = None,
) -> None:
    """Measure the embedder from DICOM file to embedding beside the stock pipeline, on this machine and in one run."""
    names = None if models is None else () if models == "none" else tuple(models.split(","))
    if unknown := {*(names or ()), *([soak_model] if soak_model else ())} - set(KNOWN_MODELS):
        raise typer.BadParameter(", ".join(sorted(unknown)), param_hint="--models")
    given = {
        "models": names,
        "images": images,
        "repeats": repeats,
        "precisions": precisions.split(",") if precisions else None,
        "is_compiled": compiled,
        "soak_frames": soak,
        "soak_model": soak_model,
    }
    plan = Plan.model_validate(
        (QUICK if quick else Plan()).model_dump() | {name: value for name, value in given.items() if value is not None}
    )
    if from_json is None:
        with tempfile.TemporaryDirectory(prefix="similis-bench-") as work:
            results = measure(
                plan,
                checkout=CHECKOUT,
                work=Path(work),
                progress=lambda text: print(text, file=sys.stderr, flush=True),
                keep=lambda results: None if json is None else keep(json, results),
            )
        print(report.markdown(results))
        kept = Measurements(measurements=(results,)) if json is None else read(json)
    else:
        kept = read(from_json)
        print("\n\n".join(report.markdown(results) for results in kept.measurements))
    if plot is not None:
        report.draw(kept, plot)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.embedder: {error}", file=sys.stderr)
        sys.exit(1)
