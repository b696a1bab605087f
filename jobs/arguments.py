"""What every job has in common: the recipe, the workspace, and how an error is told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from clm_ray.config.recipe import Recipe, load_recipe, shipped_recipes
from clm_ray.config.workspace import Workspace
from clm_ray.errors import ClmError, ConfigError


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with --recipe, --root and --set; a job adds its own options to it."""
    result = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every key of a recipe, with its unit and default, is described in clm_ray/config.",
    )
    result.add_argument(
        "--recipe",
        default="complete_journey",
        help=f"{', '.join(shipped_recipes())}, or the path of a YAML file (default: %(default)s)",
    )
    result.add_argument("--root", help="workspace folder (default: $CLM_ROOT/RECIPE, else ./workspaces/RECIPE)")
    result.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe, e.g. --set train.epochs=1; may be given many times",
    )
    return result


def open_recipe(args: argparse.Namespace) -> tuple[Recipe, Workspace]:
    """The recipe and the workspace that the command line names. Raises ConfigError. Makes no folder."""
    recipe = load_recipe(args.recipe, overrides=args.overrides)
    return recipe, Workspace.open(args.root, name=recipe.name)


def chosen_run(args: argparse.Namespace, recipe: Recipe, workspace: Workspace) -> str:
    """Name of the run that --run names, else that of this recipe and the current dataset, else the one that finished last.

    The last: it was trained with other settings of train or model, and --set is for one job alone.
    """
    from clm_ray.train.run import run_name

    name = args.run or run_name(recipe, workspace.current("datasets"))
    return name if args.run or (workspace.runs / name).is_dir() else workspace.newest_run()


def run_main(main: Callable[[Sequence[str] | None], None]) -> int:
    """Run a job's `main` on the command line and return the exit code: 0, or 2 after one line on stderr for a ClmError.

    A folder that is a file, or may not be written, is told in the same way. Anything else is a bug and keeps its traceback.
    Ctrl-C exits with 130.
    """
    try:
        main(None)
    except ClmError as error:
        return _tell(error)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        if error.filename is None:
            raise
        return _tell(
            ConfigError(
                (error.strerror or type(error).__name__).lower(),
                field="file or folder",
                value=str(error.filename),
                fix="name a folder that can be written (--root, CLM_ROOT) and files that can be read",
            )
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _tell(error: ClmError) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
