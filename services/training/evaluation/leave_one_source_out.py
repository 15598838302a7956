"""Command: heads trained without one phantom source each, measured on that source. Phantom results. Research use only.

    python -m services.training.evaluation.leave_one_source_out brain-mr --json OUT.json

The studies are those of `similis train` with the same --subjects, --hold-out and --held-out-subjects, so that features
which training has kept are not made again; here every source trains but the one that is left out in its turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.markdown import Markdown

from services.training.dataset.phantom_dataset import held_out_cases, phantom_dataset
from services.training.evaluation.left_out_sources import LeftOutReport, leave_one_source_out, left_out_table
from services.training.features.case_features import CaseEncoder, Encoder, frame_choice
from services.training.measures.bootstrap import BOOTSTRAPS
from services.training.phantoms import NAMES
from services.training.progress_bars import progress_bars
from services.training.request import Request, definition_of, recipe_of
from services.training.settings import TrainSettings
from services.training.train_options import TrainOptions, check_contrast, check_seed
from shared.errors import ConfigurationError
from shared.pixels import PixelLimits

_MODULE = "services.training.evaluation.leave_one_source_out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode, train without each source, print the table and write the JSON."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, console = _parser().parse_args(given), Console()
    try:
        report = measure_left_out(options, console)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(Markdown("\n".join(left_out_table(report))))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(left_out_table(report)) + "\n", encoding="utf-8")
    console.print(f"{report.notice} {report.description}")
    return 0


def measure_left_out(
    options: argparse.Namespace, console: Console, backbone: Encoder | None = None, cache_dir: Path | None = None
) -> LeftOutReport:
    """The report; unset, backbone and cache are those of the settings.

    Raises:
        ConfigurationError: an option or the data cannot be used.
    """
    check_seed(options.seed)
    check_contrast(options.contrast)
    settings, phantom = TrainSettings(), recipe_of(options.task)
    definition = definition_of(Request(options.task, settings.tasks_dir(), phantom=True))
    dataset = phantom_dataset(
        phantom,
        subjects=options.subjects,
        seed=options.seed,
        contrast=options.contrast,
        hold_out=[*options.hold_out, *options.without],
    )
    cases = list(dataset.cases)
    for source in options.hold_out:
        cases += held_out_cases(
            phantom, source, subjects=options.held_out_subjects, seed=options.seed, contrast=options.contrast
        )
    if backbone is None:
        from shared.vision.backbone import load_backbone

        backbone, cache_dir = load_backbone(settings.vision), settings.vision.cache_dir
    encoder = CaseEncoder(backbone, cache_dir, PixelLimits.of(settings.vision), keep_patches=dataset.has_masks)
    with progress_bars(console) as advance:
        encoded = encoder.encode(cases, choose=frame_choice(definition), title="studies", progress=advance)
        return leave_one_source_out(
            encoded,
            definition,
            backbone.id,
            TrainOptions(seed=options.seed, grouped_by=options.group_by),
            together=[names.split(",") for names in options.together],
            description=f"{phantom.task} phantoms, recipe {phantom.version}, contrast {options.contrast:g}",
            draws=options.bootstraps,
            command=_command(options),
            progress=advance,
        )


def _command(options: argparse.Namespace) -> str:
    """The command again, without paths."""
    words = [f"python -m {_MODULE} {options.task} --subjects {options.subjects} --contrast {options.contrast:g}"]
    words += [f"--hold-out {quote(source)}" for source in options.hold_out]
    words += [f"--held-out-subjects {options.held_out_subjects}"] if options.hold_out else []
    words += [f"--without {quote(source)}" for source in options.without]
    words += [f"--together {quote(names)}" for names in options.together]
    words.append(f"--group-by {options.group_by} --seed {options.seed} --bootstraps {options.bootstraps}")
    return " ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_MODULE}",
        description="Train without each phantom source in turn, measure on it. Research use only.",
    )
    parser.add_argument("task", choices=NAMES)
    parser.add_argument("--subjects", type=int, default=400, help="virtual subjects, on the sources in turn")
    parser.add_argument("--hold-out", action="append", default=[], help="as for `similis train`; here it trains too")
    parser.add_argument("--held-out-subjects", type=int, default=80, help="subjects on each such source")
    parser.add_argument("--without", action="append", default=[], help="a source to leave alone; may be repeated")
    parser.add_argument("--together", action="append", default=[], help="A,B: left out together; may be repeated")
    parser.add_argument("--group-by", choices=("source", "patient"), default="source", help="of cross-validation")
    parser.add_argument("--contrast", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstraps", type=int, default=BOOTSTRAPS)
    parser.add_argument("--json", type=Path, default=None, help="where the figures are written")
    parser.add_argument("--markdown", type=Path, default=None, help="where the table is written")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
