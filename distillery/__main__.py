"""`python -m distillery`: the same as the command `distillery`."""

from distillery.cli import main

if __name__ == "__main__":
    main()
