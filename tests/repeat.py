"""Runs pytest again and again until a run fails: `python repeat.py ROUNDS WORD...`, the words being pytest's.

A test that fails once in twenty runs is found before it lands. At the end it prints how long the rounds took.
"""

import statistics
import subprocess
import sys
import time


def main(rounds: int, words: list[str]) -> int:
    """The exit status of the last round."""
    seconds: list[float] = []
    status = 0
    for number in range(1, rounds + 1):
        begin = time.monotonic()
        print(f"== round {number} of {rounds}", flush=True)
        status = subprocess.run([sys.executable, "-P", "-m", "pytest", *words], check=False).returncode
        seconds.append(time.monotonic() - begin)
        if status != 0:
            break
    print(f"== {summary(rounds, seconds, failed=status != 0)}")
    return status


def summary(rounds: int, seconds: list[float], *, failed: bool) -> str:
    """One line for the rounds that were run, the last of which may have failed."""
    times = f"{min(seconds):.1f} to {max(seconds):.1f} s a round, median {statistics.median(seconds):.1f} s"
    if failed:
        return f"round {len(seconds)} of {rounds} failed ({times})"
    return f"all {rounds} rounds passed ({times})"


if __name__ == "__main__":
    if not (len(sys.argv) > 1 and sys.argv[1].isdigit() and int(sys.argv[1]) > 0):
        sys.exit("N: the number of rounds is needed, 1 or more")
    try:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
