"""`python -m adabelief` is the command `adabelief`."""

from adabelief.cli import main

if __name__ == "__main__":
    main()
