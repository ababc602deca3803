"""Runs under an interpreter that has unbabel-comet, which this package cannot live with.

Reads ``{"model": name, "gpus": count, "data": [{"src", "mt", "ref"}, ...]}`` from standard input
and writes ``{"score": mean, "version": of unbabel-comet}`` or ``{"error": reason}`` as the last
line of its output; progress goes to standard error. Nothing of this package is imported here.
"""

import json
import sys
from importlib.metadata import version

# A script's own folder comes first on the path; here a module would hide the package comet.
del sys.path[0]


def _answer(request: dict) -> dict:  # type: ignore[type-arg]
    try:
        from comet import download_model, load_from_checkpoint  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        return {"error": "absent" if error.name == "comet" else str(error)}
    try:
        model = load_from_checkpoint(download_model(request["model"]))
        result = model.predict(request["data"], batch_size=32, gpus=request["gpus"])
    except Exception as error:  # whatever it is, the caller says it in one line
        return {"error": f"{type(error).__name__}: {error}"}
    return {"score": float(result["system_score"]), "version": version("unbabel-comet")}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(_answer(json.load(sys.stdin))) + "\n")
