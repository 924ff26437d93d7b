"""`python -m vildcli`: the same as the installed command."""

from vildcli.cli import main

if __name__ == "__main__":
    main()
