"""Many films at once (`cxr score`): a folder, a table of paths or a DICOMweb query in, one Parquet file with one row a film out.

The films are judged by the code, the bundle and the limits of the service, in this process or on a Ray cluster. Needs the extra `bulk`.

    plan      every film of the source, once, in one order, written down before the first is judged      `plan.py`
    judge     bytes -> row; a refusal is a row too                                 `judge.py`, `local.py`, `cluster.py`
    commit    parts of some hundred rows, durable and recorded; what a kill -9 costs is the part in hand  `ledger.py`
    finish    the parts become the one file, by one rename                                               `ledger.py`
"""
