"""For all tests: hypothesis without deadlines, since the machines that run these tests are busy and uneven."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests that import the runtime directly are to be as silent as the service
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):  # the phantoms' runs are for no store but the test's own
    os.environ.pop(name, None)

settings.register_profile("cxr", deadline=None, print_blob=True)
settings.load_profile("cxr")
