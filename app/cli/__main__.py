"""`python -m app.cli` = `cxr`."""

from app.cli import main

main()
