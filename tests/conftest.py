"""For all tests: hypothesis without deadlines, since the machines that run these tests are busy and uneven."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("cxr", deadline=None, print_blob=True)
settings.load_profile("cxr")
