"""What the checks of exercises share: `python chapters/NN_name/exercises/check.py NUMBER [FILE]`."""

import importlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def main(checks, directory):
    """Check the reader's file, exercise_N.py by default; exit with 1 and a hint that names what is wrong."""
    number = int(sys.argv[1])
    from minidocker.outcome import ContainerError

    path = os.path.abspath(sys.argv[2] if sys.argv[2:] else os.path.join(directory, f"exercise_{number}.py"))
    sys.path.insert(0, os.path.dirname(path))  # where the launcher looks for an isolator's class, too
    module = importlib.import_module(os.path.splitext(os.path.basename(path))[0])
    try:
        checks[number](module)
    except (AssertionError, ContainerError) as wrong:
        sys.exit(f"exercise {number}: not yet: {wrong}")
    except Exception as mistake:  # of the reader's code: one line, with its place
        trace = mistake.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        place = f" (line {trace.tb_lineno} of {os.path.basename(trace.tb_frame.f_code.co_filename)})"
        place = "" if isinstance(mistake, NotImplementedError) else place  # that is the unsolved exercise
        sys.exit(f"exercise {number}: not yet: {type(mistake).__name__}: {mistake}{place}")
    print(f"exercise {number}: done")
