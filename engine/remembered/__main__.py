"""Shows the answers that are kept on this machine, or removes those that nobody uses.

    python -m engine.remembered [--clear]

They lie in `$DISTILLERY_ANSWERS` or the user's cache, and `$DISTILLERY_ANSWERS_BYTES` bounds them.
"""

import argparse
import sys
import time

from engine.remembered.shelf import Shelf


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each entry, the one that was used longest ago first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", action="store_true", help="remove every entry that no running job uses")
    options = parser.parse_args(arguments)
    shelf = Shelf.of_this_machine()
    if options.clear:
        sys.stdout.write(f"{shelf.clear() / 1e6:,.1f} MB are free again.\n")
    held = 0
    for each in shelf.entries():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used))
        told = f"teacher {each.key.get('teacher', '?')[:12]}, data {each.key.get('data', '?')[:12]}"
        sys.stdout.write(f"{each.folder.name[:12]}  {each.size / 1e6:10,.1f} MB  last used {used}  {told}\n")
        held += each.size
    sys.stdout.write(f"{held / 1e6:,.1f} of {shelf.limit / 1e6:,.0f} MB in {shelf.root}\n")


if __name__ == "__main__":
    main()
