"""`python -m service`: the `depot` command, also where the path breaks the first line of its script."""

from service.cli import main

if __name__ == "__main__":
    main()
