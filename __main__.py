"""Run `python -m imitate` as the command `imitate`."""

from .cli import main

if __name__ == "__main__":
    main()
