"""`python -m app.cli` = `cxr`."""

from app.cli.main import main

main()
