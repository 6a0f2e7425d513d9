"""The command line. Verbs are declared in the modules `verbs_*`, `site` and `certs`; what one does is in a module of its own, which
is imported when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import click
import typer

from windfall import __version__, proxies
from windfall.cli import certs, site, streams, verbs_files, verbs_model, verbs_plan, verbs_prepare, verbs_run
from windfall.errors import WindfallError
from windfall.store import files


class _Plain(click.HelpFormatter):
    """Help as text: typer escapes brackets for markup that is not asked for here."""

    def getvalue(self) -> str:
        return super().getvalue().replace("\\[", "[")


click.Context.formatter_class = _Plain

app = typer.Typer(
    name="windfall",
    help="Pretrain language models on renewable electricity that would otherwise be curtailed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (verbs_prepare, verbs_run, verbs_model, verbs_plan):
    app.add_typer(verbs.app)
for name, verb in (("data", verbs_files.data_app), ("trace", verbs_files.trace_app), ("site", site.app), ("certs", certs.app)):
    app.add_typer(verb, name=name)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"windfall {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Pretrain language models on renewable electricity that would otherwise be curtailed."""


def main() -> None:
    """Entry point: errors of ours become one message and their exit code, and so does what cannot be printed."""
    _read_names_as_utf8()
    proxies.settle(os.environ)
    # Where it can keep nothing at home it uses a temporary folder, which is no news to whoever reads a report.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    out, _ = streams.take_over()
    code = 1
    try:
        code = int(app(standalone_mode=False) or 0)
        out.flush()
    except streams.Unwritable as e:
        if e.nobody_reads:  # head, less, a closed terminal: no failure of ours
            code = 0
        else:
            _say(f"standard output cannot be written: {e}")
            code = 1
    except WindfallError as e:
        _say(str(e))
        code = e.exit_code
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        code = 130
    except OSError as e:
        # Wherever a verb writes: a disk that is full or read-only says so in one line. Anything else is a mistake of ours.
        if e.errno not in files.DISK_ERRORS:
            raise
        _say(f"{e.filename or 'a file'}: cannot be written ({e.strerror}); make room or give write access, then do the same again")
    finally:
        out.patient = True  # nobody is left to hear of it
    sys.exit(code)


def _read_names_as_utf8() -> None:
    """Begin again where the locale would read the names of files as anything else: a configuration names them in UTF-8."""
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        os.environ.setdefault("PYTHONIOENCODING", str(getattr(sys.stdout, "encoding", None) or "ascii"))
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _say(text: str) -> None:
    print(f"windfall: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
