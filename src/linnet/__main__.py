"""Entry point of the command: whatever goes wrong ends in one clear line."""

import errno
import io
import logging
import os
import sys

from cyclopts import CycloptsError

from linnet.cli import app
from linnet.errors import UserError
from linnet.files import readable
from linnet.options import in_one_line
from linnet.processes import drop_leftovers
from linnet.progress import TerminalHandler


def main(arguments: list[str] | None = None) -> None:
    """Exit 0 when all is well, 2 with one clear line for what the user can mend, 1 with a traceback for a bug."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[TerminalHandler()])
    logging.getLogger("linnet").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show does not stop anything
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    drop_leftovers()
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        _leave(str(error))
    except CycloptsError as error:
        _leave(in_one_line(error))
    except BrokenPipeError:  # `linnet list students | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.filename is None:  # `linnet predict ... > named.csv`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(f"the disk is full: cannot write {error.filename or 'what is printed'}; free some space and try again")
    except KeyboardInterrupt as stopped:
        how = str(stopped) or "a training goes on after its last finished epoch with --resume"
        print(f"linnet: stopped ({how})", file=sys.stderr)
        sys.exit(130)


def _leave(message: str) -> None:
    print(f"linnet: {readable(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
