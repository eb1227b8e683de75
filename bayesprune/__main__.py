"""``python -m bayesprune``: the command line."""

from bayesprune.cli import main

if __name__ == "__main__":
    main()
