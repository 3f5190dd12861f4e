"""The machinery: one room for each system of the field, in the order in which the data flow.

    collect -> process -> label -> features -> train -> evaluate -> register
            -> release -> serve -> log -> monitor -> retrain -> status

A room imports only rooms before it, and the modules beside the rooms: `contract` (the names that your code may import),
`config` (the typed settings), `pages` (how settings are read), `files` (safe writing), `scorer` (the model file). The
command composes the rooms: `__main__` at level 0, `verbs_N` at each level above. A level that is not reached yet has
no files here.
"""

import os
import sys

# without these the libraries report to their makers; ONNX Runtime also writes an identifier to disk
for name in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):
    os.environ.setdefault(name, "1")

if sys.argv[:1] == ["-m"]:  # Python loads the command: Ctrl-C ends it without a word
    sys.excepthook = lambda kind, *told: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *told)
