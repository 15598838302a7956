"""`python -m bench.explainer`: measure, print tables, keep the JSON, draw the plot."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.explainer import report
from bench.explainer.benchmark import KNOWN_MODELS, measure
from bench.explainer.results import Plan, Results
from shared.errors import SimilisError

CHECKOUT: Final = Path(__file__).resolve().parents[2]
QUICK: Final = Plan(models=("S",), images={"S": 1}, queued=2, queued_masks=4)


def main(
    models: Annotated[str | None, typer.Option(help="S, B, L, such as S,B.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images of each model; default: 2 for S, else 1.")] = None,
    queued: Annotated[int | None, typer.Option(min=1, help="Images in one queue; default 8.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Whether it works, not how fast.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where to keep every run.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw a PNG or SVG.")] = None,
    from_json: Annotated[Path | None, typer.Option(help="Measure nothing: show what was kept by --json.")] = None,
) -> None:
    """Measure saliency maps beside the published procedure, on this machine and in one run."""
    plan = QUICK if quick else Plan()
    if models:
        names = tuple(models.split(","))
        if unknown := set(names) - set(KNOWN_MODELS):
            raise typer.BadParameter(", ".join(sorted(unknown)), param_hint="--models")
        plan = plan.model_copy(update={"models": names, "images": {**dict.fromkeys(names, 1), **plan.images}})
    if images is not None:
        plan = plan.model_copy(update={"images": dict.fromkeys(plan.models, images)})
    if queued is not None:
        plan = plan.model_copy(update={"queued": queued})
    if from_json is None:
        with tempfile.TemporaryDirectory(prefix="similis-bench-") as work:
            results = measure(
                plan, checkout=CHECKOUT, work=Path(work), progress=lambda text: print(text, file=sys.stderr, flush=True)
            )
    else:
        results = Results.model_validate_json(from_json.read_text())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(results.model_dump_json(indent=1) + "\n")
    if plot is not None:
        report.draw(results, plot)
    print(report.markdown(results))


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.explainer: {error}", file=sys.stderr)
        sys.exit(1)
