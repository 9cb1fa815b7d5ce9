"""`python -m milpath` is the command line; it imports no modules from the current folder."""
# ruff: noqa: PTH100, PTH120, PTH121

import os  # pathlib itself may be planted there
import sys


def _leave_out_current_folder() -> None:
    """Undo that `python -m` imports from the current folder, unless milpath itself lies there."""
    first, here = sys.path[0], os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.flags.safe_path or first == here:
        return
    try:
        current = not first or os.path.samefile(first, os.curdir)
    except OSError:  # the current folder was deleted
        return
    if current:
        del sys.path[0]


def main() -> None:
    """Run the command line."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)  # until the command line itself handles it
    from milpath.cli import main as run_command_line

    run_command_line()


def _interrupt(number: int, frame: object) -> None:
    os.write(2, b"milpath: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    _leave_out_current_folder()
    main()
